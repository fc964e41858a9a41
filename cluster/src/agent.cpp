#include "agent.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include <sidestep/remote_error.hpp>

#include "complaint.hpp"
#include "pool_access.hpp"
#include "pool_core.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr auto kFarewellTime = std::chrono::seconds(5);  // for what was said last
constexpr auto kMostForStack = std::chrono::milliseconds(100);

FailureKind kind_of_failure(const std::exception_ptr& failure, WiredDetails& details, bool& known) {
    known = true;
    try {
        std::rethrow_exception(failure);
    } catch (const WorkerLost& error) {
        details = wired(TaskErrorAccess::details(error));
        return FailureKind::crash;
    } catch (const TaskTimeout& error) {
        details = wired(TaskErrorAccess::details(error));
        return FailureKind::timeout;
    } catch (const OutOfMemory& error) {
        details = wired(TaskErrorAccess::details(error));
        return FailureKind::out_of_memory;
    } catch (const CancelledError&) {
        return FailureKind::cancelled;
    } catch (...) {
        known = false;
        return FailureKind::error;
    }
}

// That of a task that ran out of time, if it may still be told; else null.
std::shared_ptr<const AskedStack> stack_to_come(const PoolTask& task) {
    std::exception_ptr failure = task.ending().failure;
    if (!failure && task.split()) failure = task.split()->error;
    if (!failure) return nullptr;
    try {
        std::rethrow_exception(failure);
    } catch (const TaskTimeout& error) {
        auto stack = TaskErrorAccess::details(error).asked_stack;
        return stack && !stack->is_there() ? stack : nullptr;
    } catch (...) {
        return nullptr;
    }
}

std::vector<std::uint8_t> saved(const std::exception_ptr& failure) {
    HeapBuffer buffer;
    OutputArchive archive(buffer);
    try {
        std::rethrow_exception(failure);
    } catch (...) {
        save_current_exception(archive, fmt::format("  on host {}\n", this_task::host()));
    }
    auto* begin = reinterpret_cast<const std::uint8_t*>(buffer.begin());
    return {begin, begin + buffer.size()};
}

}  // namespace

// A pool here, for one over there.
struct Agent::AgentPool {
    std::uint32_t number = 0;
    std::unique_ptr<Pool> pool;      // null: it could not be made, or is ending
    std::shared_ptr<PoolCore> core;  // of the pool
    ServiceThread ending;            // waits for the end of the pool
    bool is_broken = false;          // that was said
    bool is_to_end = false;          // but there was no thread that could wait for it
    bool has_ended = false;          // its workers are gone
    std::size_t ended_tag = 0;       // comes when it has ended; 0: it is not to end yet
    std::unordered_map<std::uint64_t, std::size_t> tags;  // by the number over there
};

Agent::Agent(Transport& transport, const Signs& signs) : transport_(transport), signs_(signs) {}
Agent::~Agent() { terminate_all(); }

void Agent::terminate_all() noexcept {
    for (auto& [number, pool] : pools_) {
        if (pool->core) pool->core->terminate();
        if (pool->ending.joinable()) pool->ending.join();
        pool->pool.reset();
    }
    pools_.clear();
}

int Agent::run(const Hello& own) {
    say(framed(MessageKind::hello, own));
    BackOff back_off;
    while (!ends_) {
        bool any = transport_.progress();
        while (auto frame = transport_.receive()) {
            any = true;
            heard_ = sys::Clock::now();
            if (!handle(*frame)) break;
        }
        any = take_finished() || any;
        any = take_located() || any;
        for (auto& [number, pool] : pools_)
            if (pool->is_to_end) end(number, false);
        if (transport_.lost()) {  // there is no other but the first process
            exit_code_ = 1;
            break;
        }
        if (any) {
            back_off.reset();
            continue;
        }
        if (is_abandoned()) {
            exit_code_ = 1;
            break;
        }
        if (unsigned us = back_off.next(!flights_.empty() || !unlocated_.empty()))
            (void)finished_->wait(sys::Clock::now() + std::chrono::microseconds(us));
    }
    terminate_all();
    if (exit_code_ == 0) say(framed(MessageKind::farewell, Nothing{}));
    auto deadline = sys::Clock::now() + kFarewellTime;
    while (!transport_.all_sent() && sys::Clock::now() < deadline) (void)transport_.progress();
    return exit_code_;
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

// False: nothing more is taken.
bool Agent::handle(const ReceivedFrame& frame) {
    InputArchive archive(frame.head);
    switch (kind_of(archive)) {
        case MessageKind::open:
            open(unpacked<OpenPool>(archive));
            return true;
        case MessageKind::submit:
            submit(unpacked<SubmitTask>(archive), frame.body);
            return true;
        case MessageKind::cancel:
            cancel(unpacked<TaskNumber>(archive));
            return true;
        case MessageKind::close:
            end(unpacked<PoolWord>(archive).pool, false);
            return true;
        case MessageKind::terminate:
            end(unpacked<PoolWord>(archive).pool, true);
            return true;
        case MessageKind::ping:
            patience_ = std::chrono::nanoseconds(unpacked<Ping>(archive).silence_ns);
            say(framed(MessageKind::pong, Nothing{}));
            return true;
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
    return false;
}

// --- pools -------------------------------------------------------------------------------------

void Agent::open(OpenPool request) {
    finished_->expect();  // its end
    auto& pool = pools_[request.pool];
    pool = std::make_unique<AgentPool>();
    pool->number = request.pool;
    try {
        PoolOptions options = request.options;
        options.processes = request.processes;
        options.start_method = StartMethod::forkserver;
        options.initializer = unwired(std::move(request.initializer));
        options.finalizer = unwired(std::move(request.finalizer));
        pool->pool = std::make_unique<Pool>(options);
        pool->core = PoolAccess::core(*pool->pool);
    } catch (const std::exception& error) {
        tell_broken(*pool, fmt::format("the pool is broken: its workers cannot be started: {}",
                                       error.what()));
    }
}

void Agent::tell_broken(AgentPool& pool, const std::string& why) {
    if (!std::exchange(pool.is_broken, true))
        say(framed(MessageKind::broken, PoolWord{pool.number, why}));
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
    while (!pool.tags.empty()) {  // what failed to be submitted again, when it ended
        auto found = flights_.find(pool.tags.begin()->second);
        Flight flight = std::move(found->second);
        flights_.erase(found);
        answer(std::move(flight));
    }
    std::uint32_t number = pool.number;
    pools_.erase(number);
    say(framed(MessageKind::closed, PoolWord{number, {}}));
}

// --- tasks -------------------------------------------------------------------------------------

void Agent::submit(const SubmitTask& request, std::span<const std::byte> arguments) {
    auto found = pools_.find(request.pool);
    if (found == pools_.end() || !found->second->core) return;  // broken, which was said
    AgentPool& pool = *found->second;
    try {
        const TaskEntry& entry = require_entry(request.id, "the task");
        TaskKind kind{lasting(request.id), entry, nullptr};
        TaskOptions options;
        options.timeout = std::chrono::nanoseconds(request.timeout_ns);
        options.soft_timeout = std::chrono::nanoseconds(request.soft_timeout_ns);
        options.memory_limit = request.memory_limit;
        options.key = request.key;
        options.priority = request.priority;
        PoolTaskRef task =
            PoolTask::create(pool.core, kind, request.has_options ? &options : nullptr);
        TaskWriter(*task).write(arguments.data(), arguments.size());
        task->set_origin(request.number,
                         {.begin = request.items_begin,
                          .end = request.items_end,
                          .done = 0,
                          .first = request.first_item},
                         request.attempts);
        PoolTask::submit(task);  // from here on it has an answer of its own
        watch(pool, request.number, std::move(task));
    } catch (...) {
        answer_failure({request.pool, request.number, {}}, std::current_exception());
    }
}

// Tasks refer to theirs. There are no more than this program has functions that were sent.
const TaskId& Agent::lasting(const TaskId& id) {
    return ids_.try_emplace({id.where.module, id.where.offset, id.signature}, id).first->second;
}

void Agent::watch(AgentPool& pool, std::uint64_t number, PoolTaskRef task) {
    std::size_t tag = ++last_tag_;
    pool.tags[number] = tag;
    PoolTask& watched = *task;
    flights_[tag] = {pool.number, number, std::move(task)};
    if (!watched.listen(finished_, tag)) finished_->add(tag);
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
    bool any = false;
    while (auto tag = finished_->pop()) {
        any = true;
        auto found = flights_.find(*tag);
        if (found != flights_.end()) {
            Flight flight = std::move(found->second);
            flights_.erase(found);
            answer(std::move(flight));
            continue;
        }
        for (auto& [number, pool] : pools_)
            if (pool->ended_tag == *tag) {
                finish(*pool);
                break;
            }
    }
    return any;
}

// This thread waits for no worker: it has the others' words to carry.
void Agent::answer(Flight flight) {
    auto pool = pools_.find(flight.pool);
    if (pool != pools_.end()) pool->second->tags.erase(flight.number);
    auto stack = stack_to_come(*flight.task);
    if (!stack) return answer_now(std::move(flight));
    unlocated_.push_back({std::move(flight), std::move(stack), sys::Clock::now() + kMostForStack});
    (void)take_located();
}

bool Agent::take_located() {
    bool any = false;
    const auto now = sys::Clock::now();
    for (std::size_t i = 0; i < unlocated_.size();) {
        Unlocated& each = unlocated_[i];
        // A pool that has ended is about to say so, and nothing comes behind that.
        auto pool = pools_.find(each.flight.pool);
        const bool has_ended = pool == pools_.end() || pool->second->has_ended;
        if (!each.stack->is_there() && now < each.give_up && !has_ended) {
            ++i;
            continue;
        }
        each.stack->settle();
        Flight flight = std::move(each.flight);
        unlocated_.erase(unlocated_.begin() + static_cast<std::ptrdiff_t>(i));
        answer_now(std::move(flight));
        any = true;
    }
    return any;
}

void Agent::answer_now(Flight flight) {
    PoolTask& task = *flight.task;
    PoolTask::Ending ending = task.ending();
    if (ending.failure) return answer_failure(flight, ending.failure);
    if (task.split()) return answer_failure(flight, task.split()->error);
    WiredReply reply{flight.pool, flight.number, ending.has_value, task.duration_ns(), {}};
    if (const TaskOutput* output = task.output()) reply.output.output = *output;
    Frame frame = framed(MessageKind::reply, reply);
    frame.body = ending.bytes;
    frame.keep = std::make_shared<PoolTaskRef>(std::move(flight.task));
    say(std::move(frame));
}

void Agent::answer_failure(const Flight& flight, const std::exception_ptr& error) {
    WiredFailure failure;
    failure.pool = flight.pool;
    failure.number = flight.number;
    bool known = false;
    FailureKind kind = kind_of_failure(error, failure.details, known);
    failure.kind = static_cast<std::uint8_t>(kind);
    if (kind == FailureKind::cancelled)
        return say(framed(MessageKind::cancelled, TaskNumber{flight.pool, flight.number}));
    auto pool = pools_.find(flight.pool);
    if (!known) {
        try {
            std::rethrow_exception(error);
        } catch (const BrokenPool& broken) {
            if (pool != pools_.end()) tell_broken(*pool->second, broken.what());
            return;
        } catch (...) {
            failure.other_error = saved(error);
        }
    }
    Frame frame;
    if (PoolTask* task = flight.task.get()) {
        if (const TaskOutput* output = task->output()) failure.output.output = *output;
        if (const PoolTask::Split* split = task->split()) {
            failure.is_chunk = true;
            failure.items = task->items_done();
            if (split->rest && pool != pools_.end()) {
                failure.rest = ++last_rest_;
                watch(*pool->second, failure.rest, split->rest);
            }
            frame.body = task->ending().bytes;
            frame.keep = std::make_shared<PoolTaskRef>(flight.task);
        }
    }
    frame.head = packed(MessageKind::failure, failure);
    say(std::move(frame));
}

}  // namespace sidestep::detail
