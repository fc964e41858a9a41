#include "agent.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "agent_pool.hpp"
#include "back_off.hpp"
#include "complaint.hpp"
#include "no_memory_for.hpp"
#include "pool_access.hpp"
#include "pool_core.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr auto kFarewellTime = std::chrono::seconds(5);  // for what was said last

}  // namespace

Agent::Agent(Transport& transport, const Signs& signs) : transport_(transport), signs_(signs) {
    transport_.place_bodies([this](std::span<const std::byte> head, std::size_t size) {
        return place_arguments(head, size);
    });
}
Agent::~Agent() {
    transport_.place_bodies({});
    terminate_all();
}

void Agent::terminate_all() noexcept {
    for (auto& [number, pool] : pools_) {
        if (pool->core) pool->core->terminate();
        if (pool->ending.joinable()) pool->ending.join();
        pool->pool.reset();
    }
    pools_.clear();
}

int Agent::run(const Hello& own) {
    hello_ = &own;
    BackOff::sleep_in_time();
    BackOff back_off;
    while (!ends_) {
        if (try_round()) {
            back_off.reset();
            continue;
        }
        const unsigned us = back_off.next(transport_.is_moving() ? BackOff::For::bytes
                                          : flights_.empty()     ? BackOff::For::anything
                                                                 : BackOff::For::answer);
        if (us == 0)
            back_off.pause();
        else if (!ends_)
            (void)finished_->wait(sys::Clock::now() + std::chrono::microseconds(us));
    }
    terminate_all();
    take_leave();
    return exit_code_;
}

// False: there was nothing to do, or no memory for it.
bool Agent::try_round() {
    try {
        const bool any = round();
        short_since_ = {};
        if (!any && is_abandoned()) {
            exit_code_ = 1;
            ends_ = true;
        }
        return any;
    } catch (const std::bad_alloc&) {
        const auto now = sys::Clock::now();
        if (short_since_ == sys::Clock::time_point{}) short_since_ = now;
        if (now - short_since_ <= signs_.most_short) return false;
        if (resigned_) {  // not even for that
            exit_code_ = 1;
            ends_ = true;
        }
        resign(nullptr);
    } catch (const std::exception& error) {
        if (resigned_) throw;
        resign(error.what());
    }
    return false;
}

bool Agent::round() {
    if (hello_) {
        resignation_ = framed(MessageKind::resigned, Refusal{"it had no memory left for its work"});
        say(framed(MessageKind::hello, *hello_));
        hello_ = nullptr;
    }
    bool any = transport_.progress();
    while (!ends_) {
        if (!frame_) frame_ = transport_.receive();
        if (!frame_) break;
        any = true;
        heard_ = sys::Clock::now();
        handle(*frame_);
        frame_.reset();
    }
    any = take_finished() || any;
    any = take_located() || any;
    for (auto& [number, pool] : pools_)
        if (pool->is_to_end) end(number, false);
    if (resigned_ && !resignation_.head.empty()) say(std::move(resignation_));
    if (transport_.lost()) {  // there is no other but the first process
        exit_code_ = 1;
        ends_ = true;
    }
    return any;
}

// Why: null if for want of memory. From here on the agent only hears when the job is over: a
// process that went would take the whole job along.
void Agent::resign(const char* why) noexcept {
    if (std::exchange(resigned_, true)) return;
    short_since_ = {};
    frame_.reset();
    tag_.reset();
    terminate_all();
    flights_.clear();
    unlocated_.clear();
    if (!why) return;
    try {
        resignation_ = framed(MessageKind::resigned, Refusal{why});
    } catch (const std::bad_alloc&) {  // the one that was made beforehand goes
    }
}

void Agent::take_leave() {
    const auto deadline = sys::Clock::now() + kFarewellTime;
    bool is_said = exit_code_ != 0;
    while (sys::Clock::now() < deadline) {
        try {
            if (!is_said) say(framed(MessageKind::farewell, Nothing{}));
            is_said = true;
            if (transport_.all_sent()) return;
            (void)transport_.progress();
        } catch (const std::bad_alloc&) {  // again, as long as there is time
        }
    }
}

// The first process has died, or is cut off, or the launcher has, and nobody has ended this one.
bool Agent::is_abandoned() {
    if (signs_.launcher != 0 && ::getppid() != signs_.launcher) {
        complain(fmt::format("the agent on host {} ends: the launcher's process there has",
                             this_task::host()));
        return true;
    }
    bool hurries = signs_.interrupt && *signs_.interrupt;
    auto patience = patience_;  // 0: nothing was heard yet
    if (hurries && (patience.count() == 0 || signs_.patience < patience))
        patience = signs_.patience;
    auto now = sys::Clock::now();
    if (now - looked_ > patience / 2) heard_ = now;  // it is this process that stood still
    looked_ = now;
    if (patience.count() == 0 || now - heard_ <= patience) return false;
    using std::chrono::milliseconds;
    complain(fmt::format(
        "the agent on host {} ends: the first process of the job has been silent for {} ms",
        this_task::host(), std::chrono::duration_cast<milliseconds>(patience).count()));
    return true;
}

// If it throws std::bad_alloc, it may be called once more.
void Agent::handle(const ReceivedFrame& frame) {
    InputArchive archive(frame.head);
    const MessageKind kind = kind_of(archive);
    // What was sent before its resignation was heard of is lost with this host.
    if (resigned_ && (kind == MessageKind::open || kind == MessageKind::submit)) return;
    switch (kind) {
        case MessageKind::open:
            return open(unpacked<OpenPool>(archive));
        case MessageKind::submit:
            return submit(unpacked<SubmitTask>(archive), frame);
        case MessageKind::cancel:
            return cancel(unpacked<TaskNumber>(archive));
        case MessageKind::close:
            return end(unpacked<PoolWord>(archive).pool, false);
        case MessageKind::terminate:
            return end(unpacked<PoolWord>(archive).pool, true);
        case MessageKind::ping:
            patience_ = std::chrono::nanoseconds(unpacked<Ping>(archive).silence_ns);
            return say(framed(MessageKind::pong, Nothing{}));
        case MessageKind::refused:
            complain(unpacked<Refusal>(archive).why);
            exit_code_ = 1;
            break;
        case MessageKind::goodbye:
            break;
        default:
            throw SerializationError("the first process sent what only agents send");
    }
    ends_ = true;
}

// --- pools -------------------------------------------------------------------------------------

// Its number is new, or there was no memory for the pool before.
void Agent::open(OpenPool request) {
    finished_->expect();  // its end
    auto made = std::make_unique<AgentPool>();
    made->number = request.pool;
    AgentPool& pool = *(pools_[request.pool] = std::move(made));
    try {
        PoolOptions options = request.options;
        options.processes = request.processes;
        options.start_method = StartMethod::forkserver;
        options.initializer = unwired(std::move(request.initializer));
        options.finalizer = unwired(std::move(request.finalizer));
        pool.pool = std::make_unique<Pool>(options);
        pool.core = PoolAccess::core(*pool.pool);
    } catch (const std::bad_alloc&) {
        throw;  // it may be there a moment later
    } catch (const std::exception& error) {
        tell_broken(pool, fmt::format("the pool is broken: its workers cannot be started: {}",
                                      error.what()));
    }
}

void Agent::tell_broken(AgentPool& pool, const std::string& why) {
    if (pool.is_broken) return;
    say(framed(MessageKind::broken, PoolWord{pool.number, why}));
    pool.is_broken = true;
}

void Agent::end(std::uint32_t number, bool now) {
    auto found = pools_.find(number);
    if (found == pools_.end()) return;
    AgentPool& pool = *found->second;
    if (now && pool.core) pool.core->terminate();
    if (pool.ended_tag != 0) return;
    std::size_t tag = ++last_tag_;
    if (!pool.core) {
        pool.ended_tag = tag;
        return finished_->push(tag);
    }
    if (!now) pool.core->close();
    // It waits for the last tasks, and for workers that may take their time to leave.
    try {
        pool.ending.start("sidestep-end", ServiceThread::Runs::library_code, [this, &pool, tag] {
            pool.core->join();
            finished_->push(tag);
        });
    } catch (const std::system_error&) {
        pool.is_to_end = true;
        return;
    }
    pool.is_to_end = false;
    pool.ended_tag = tag;
}

// Its end was waited for.
void Agent::finish(AgentPool& pool) {
    if (pool.ending.joinable()) pool.ending.join();
    pool.has_ended = true;
    (void)take_located();
    // What failed to be submitted again, when it ended.
    while (!pool.tags.empty()) answer_now(pool.tags.begin()->second);
    pool.pool.reset();
    say(framed(MessageKind::closed, PoolWord{pool.number, {}}));
    pools_.erase(pool.number);
}

// --- tasks -------------------------------------------------------------------------------------

void Agent::submit(const SubmitTask& request, const ReceivedFrame& frame) {
    auto found = pools_.find(request.pool);
    if (found == pools_.end() || !found->second->core) return;  // broken, which was said
    AgentPool& pool = *found->second;
    std::size_t tag = 0;
    try {
        if (frame.missing > 0)
            throw NoMemoryFor(
                "task {}: host {} has no memory for its arguments ({} bytes): give that host more, "
                "or pass less to each task",
                request.number, this_task::host(), frame.missing);
        PoolTaskRef task;
        if (frame.place) {
            task = *std::static_pointer_cast<PoolTaskRef>(frame.place);
        } else {
            task = make_task(pool, request);
            TaskWriter(*task).write(frame.body.data(), frame.body.size());
        }
        task->set_origin(request.number,
                         {.begin = request.items_begin,
                          .end = request.items_end,
                          .done = 0,
                          .told = request.items_told,
                          .first = request.first_item},
                         request.attempts);
        tag = watch(pool, request.number, task);
        PoolTask::submit(task);  // from here on it has an answer of its own
    } catch (...) {
        if (tag != 0) unwatch(tag);
        answer_failure({request.pool, request.number, {}}, std::current_exception());
    }
}

// Without its arguments.
PoolTaskRef Agent::make_task(AgentPool& pool, const SubmitTask& request) {
    const TaskEntry& entry = require_entry(request.id, "the task");
    TaskKind kind{ids_.lasting(request.id), entry, nullptr};
    TaskOptions options;
    options.timeout = std::chrono::nanoseconds(request.timeout_ns);
    options.soft_timeout = std::chrono::nanoseconds(request.soft_timeout_ns);
    options.memory_limit = request.memory_limit;
    options.key = request.key;
    options.priority = request.priority;
    options.retry.max_attempts = 1;  // whatever the pool's are: the first process sees to it
    return PoolTask::create(pool.core, kind, request.has_options ? &options : nullptr);
}

// Large arguments come to the pool's memory, where its workers read them. A pool that has ended
// meanwhile, or is about to, keeps that for as long as somebody may write there: the task does.
// Where anything is in the way they come with their frame, and submit() says what it is.
BodyPlace Agent::place_arguments(std::span<const std::byte> head, std::size_t size) noexcept try {
    InputArchive archive(head);
    if (resigned_ || kind_of(archive) != MessageKind::submit) return {};
    const auto request = unpacked<SubmitTask>(archive);
    auto found = pools_.find(request.pool);
    if (found == pools_.end() || !found->second->core) return {};
    PoolCore& core = *found->second->core;
    PoolTaskRef task = make_task(*found->second, request);
    task->block = core.memory().allocate(size);
    task->bytes.set_size(size);
    return {core.memory().data(task->block), std::make_shared<PoolTaskRef>(std::move(task))};
} catch (const std::exception&) {
    return {};
}

// If it throws, it does not watch.
std::size_t Agent::watch(AgentPool& pool, std::uint64_t number, const PoolTaskRef& task) {
    const std::size_t tag = ++last_tag_;
    flights_.emplace(tag, Flight{pool.number, number, task});
    try {
        pool.tags[number] = tag;
        if (!task->listen(finished_, tag)) finished_->add(tag);
    } catch (const std::bad_alloc&) {
        unwatch(tag);
        throw;
    }
    return tag;
}

// Its tag may still come, for nobody.
void Agent::unwatch(std::size_t tag) noexcept {
    auto found = flights_.find(tag);
    auto pool = pools_.find(found->second.pool);
    if (pool != pools_.end()) pool->second->tags.erase(found->second.number);
    flights_.erase(found);
}

void Agent::cancel(const TaskNumber& request) {
    auto pool = pools_.find(request.pool);
    if (pool == pools_.end()) return;
    auto tag = pool->second->tags.find(request.number);
    if (tag == pool->second->tags.end()) return;  // it has been answered
    PoolTaskRef task = flights_.at(tag->second).task;
    (void)pool->second->core->desk().cancel(*task, request.running_too);
}

bool Agent::take_finished() {
    for (auto& [number, pool] : pools_)
        if (pool->core && !pool->tags.empty()) pool->core->desk().poll();
    for (bool any = false;; any = true) {
        if (!tag_) tag_ = finished_->pop();
        if (!tag_) return any;
        if (flights_.contains(*tag_)) {
            answer(*tag_);
        } else {
            auto ended = std::find_if(pools_.begin(), pools_.end(), [&](const auto& each) {
                return each.second->ended_tag == *tag_;
            });
            if (ended != pools_.end()) finish(*ended->second);
        }
        tag_.reset();
    }
}

}  // namespace sidestep::detail
