#include "policy/other_hosts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>
#include <variant>

#include <sidestep/detail/call_times.hpp>
#include <sidestep/remote_error.hpp>

#include "insight/task_facts.hpp"
#include "spare_errors.hpp"
#include "task/attempts.hpp"

namespace sidestep::inline v0::detail {

void OtherHosts::open(const HostPlan& plan, const std::shared_ptr<HostListener>& pool) {
    if (plan.shares.size() < 2) return;
    {
        PoolLock lock(rooms_.mutex);
        std::vector<std::string> names;
        for (std::size_t i = 1; i < plan.shares.size(); ++i) {
            HostLink& host = hosts_.emplace_back();
            host.index = static_cast<std::uint32_t>(i - 1);
            host.name = plan.shares[i].name;
            host.workers = plan.shares[i].processes;
            workers_ += host.workers;
            names.push_back(host.name);
        }
        rooms_.insight.name_hosts(first_track(), std::move(names));
        if (workers_ > 0) rooms_.dispatcher.set_elsewhere(this);
    }
    for (std::uint32_t i = 0; i + 1 < plan.shares.size(); ++i) {
        unsigned workers = plan.shares[i + 1].processes;
        if (workers == 0) continue;
        auto lane = plan.options.hosts->open(i + 1, plan.options, workers, i, pool);
        PoolLock lock(rooms_.mutex);
        hosts_[i].lane = std::move(lane);
    }
}

void OtherHosts::require_no_hosts(const HostPlan& plan) {
    if (plan.shares.size() < 2) return;
    throw std::invalid_argument(
        "PoolOptions::initializer or finalizer has a handle of shared memory, a lock or a queue: "
        "those exist on this host alone, and this pool has workers on others");
}

void OtherHosts::require_no_handles(const TaskDescriptors& descriptors) {
    if (descriptors.empty()) return;
    throw std::invalid_argument(
        "an argument of this task is or has a handle of shared memory, a lock, a queue or another "
        "descriptor: that exists on this host alone, and this pool has workers on others. Pass the "
        "data by value, or use a pool without cluster()");
}

void OtherHosts::add_shares(std::vector<Hosts::Share>& shares) const {
    for (const HostLink& host : hosts_)
        if (host.workers > 0) shares.push_back({host.name, host.workers});
}

void OtherHosts::add_stats(std::vector<HostStats>& stats) const {
    for (const HostLink& host : hosts_)
        if (host.workers > 0)
            stats.push_back(
                {host.name, host.workers, host.done, host.tasks.size(), host.failures, host.lost});
}

// --- which tasks go there ----------------------------------------------------------------------

HostLink* OtherHosts::soonest(std::uint64_t task_ns) {
    HostLink* best = nullptr;
    for (HostLink& host : hosts_)
        if (host.has_room(task_ns) && (!best || host.cost(task_ns) < best->cost(task_ns)))
            best = &host;
    return best;
}

bool OtherHosts::is_sooner(std::uint64_t ns, std::uint64_t task_ns) const {
    for (const HostLink& host : hosts_)
        if (host.has_room(task_ns) && host.cost(task_ns) < ns) return true;
    return false;
}

bool OtherHosts::take(PoolTask& task, std::uint64_t task_ns) noexcept {
    HostLink* host = soonest(task_ns);
    return host && start_on(*host, task);
}

// Tasks with one key have one worker; which host's, the key says. Null: one of this host's.
HostLink* OtherHosts::host_of_key(std::uint64_t key) {
    std::uint64_t own = rooms_.dispatcher.lanes().size();
    std::uint64_t place = key % (own + workers_);
    if (key == 0 || place < own) return nullptr;
    place -= own;
    for (HostLink& host : hosts_) {
        if (place < host.workers) return host.takes_tasks() ? &host : nullptr;
        place -= host.workers;
    }
    return nullptr;
}

// However much waits there.
bool OtherHosts::take_by_key(PoolTask& task) noexcept {
    if (!task.options || task.options->key == 0) return false;
    HostLink* host = host_of_key(task.options->key);
    return host && start_on(*host, task);
}

// False: there is no memory to remember that, and nothing has happened.
bool OtherHosts::start_on(HostLink& host, PoolTask& task) noexcept {
    std::uint64_t number = task.serial;
    if (host.tasks.size() <= host.workers) host.heard_ns = steady_now_ns();
    try {
        if (task.block) task.keep_arguments();  // they are sent later
        PoolTask::ArgumentView arguments = task.argument_view();
        const std::byte* data =
            arguments.block ? rooms_.arguments.data(arguments.block) : arguments.inline_bytes;
        HostOrder order{number,
                        *task.id,
                        task.options,
                        task.items().begin,
                        task.items().end,
                        task.items().told,
                        task.items().first,
                        task.failures.attempts,
                        {data, arguments.size},
                        task.kept()};
        PoolTask::More& more = task.make_more();
        host.tasks.emplace(number, &task);
        host.lane->start(order);
        more.host = host.index;
        more.number = number;
    } catch (const std::exception&) {
        host.tasks.erase(number);
        return false;
    }
    task.place = PoolTask::Place::elsewhere;
    return true;
}

// It may have been given to it when nobody was idle, or when tasks were short.
void OtherHosts::take_back_stuck(bool idle_here) noexcept {
    std::uint64_t now_ns = steady_now_ns();
    for (HostLink& host : hosts_) {
        if (!host.is_stuck(now_ns)) continue;
        bool idle = idle_here || std::any_of(hosts_.begin(), hosts_.end(),
                                             [](const HostLink& other) { return other.is_idle(); });
        if (!idle) return;
        try {
            for (const auto& [number, task] : host.tasks) {
                if (!task || (task->options && task->options->key != 0)) continue;
                if (host.recalled.contains(number)) continue;
                host.lane->cancel(number, HostLane::Cancel::waiting_only);
                host.recalled.emplace(number, HostLink::Recall::for_elsewhere);
            }
        } catch (const std::bad_alloc&) {  // another time
        }
    }
}

// --- what becomes of them ----------------------------------------------------------------------

void OtherHosts::told(std::uint32_t number, std::vector<HostEvent> events, Hold& hold) {
    HostLink& host = hosts_[number];
    host.heard_ns = steady_now_ns();
    for (HostEvent& event : events) {
        if (host.ended) break;
        std::visit([&](auto& each) POOL_LOCKED { take(host, each, hold); }, event);
    }
}

// The task that it had by this number; null: nobody waits for that.
PoolTask* OtherHosts::end_on(HostLink& host, std::uint64_t number) {
    auto found = host.tasks.find(number);
    if (found == host.tasks.end()) return nullptr;
    PoolTask* task = found->second;
    host.tasks.erase(found);
    host.recalled.erase(number);
    return task;
}

// A track of its own in traces, behind those of the workers here.
std::uint32_t OtherHosts::first_track() const {
    return static_cast<std::uint32_t>(rooms_.dispatcher.lanes().size());
}

void OtherHosts::note(const HostLink& host, PoolTask& task, std::uint64_t duration_ns,
                      const char* outcome) {
    task.time_ns = 0;
    const std::uint32_t track = first_track() + host.index;
    rooms_.insight.note_run(facts_of(task),
                            {track, track, 0, steady_now_ns() - duration_ns, duration_ns, outcome});
}

namespace {

void take_output(PoolTask& task, std::optional<TaskOutput>& output) noexcept {
    if (!output) return;
    try {
        task.make_more().output = std::make_unique<TaskOutput>(std::move(*output));
    } catch (const std::bad_alloc&) {
        task.output_lost = true;
    }
}

// What is left of a chunk, by its number there (0: nothing is), is not wanted.
void end_rest(HostLink& host, std::uint64_t number) noexcept {
    try {
        if (number != 0) host.lane->cancel(number, HostLane::Cancel::running_too);
    } catch (const std::bad_alloc&) {  // then it runs, for nobody
    }
}

std::exception_ptr host_error(const HostLink& host, const PoolTask& task,
                              HostFailure& failure) noexcept {
    if (failure.error) return failure.error;
    const SpareErrors& spare = spare_errors();
    std::exception_ptr least = spare.lost;
    if (failure.kind == FailureKind::timeout) least = spare.timed_out;
    if (failure.kind == FailureKind::out_of_memory) least = spare.out_of_memory;
    return made_or(least, [&] {
        TaskError::Details details = std::move(failure.details);
        tell_task(details, task);
        tell_attempts(details, task, failure.kind);
        details.host = host.name;
        if (failure.kind == FailureKind::timeout)
            return std::make_exception_ptr(TaskTimeout(std::move(details)));
        if (failure.kind == FailureKind::out_of_memory)
            return std::make_exception_ptr(OutOfMemory(std::move(details)));
        return std::make_exception_ptr(WorkerLost(std::move(details)));
    });
}

}  // namespace

void OtherHosts::take(HostLink& host, HostReply& reply, Hold& hold) {
    PoolTask* task = end_on(host, reply.number);
    if (!task) return;
    ++host.done;
    note(host, *task, reply.duration_ns, reply.is_value ? "value" : "error");
    rooms_.dispatcher.learn(reply.duration_ns);
    take_output(*task, reply.output);
    TaskReply here{reply.is_value, reply.bytes, 0, reply.duration_ns};
    if (!reply.is_value && policies_.retries.may_retry(*task, FailureKind::error) &&
        policies_.retries.retry_reply(*task, here, hold))
        return;
    if (reply.bytes.size() > PoolTask::kInline) {  // without a copy
        task->bytes.take(std::move(reply.bytes));
        task->end_items();
        task->has_value = reply.is_value;
        task->time_ns = reply.duration_ns;
    } else {
        keep_reply(here, *task);
    }
    rooms_.task_end.complete(task, hold);
}

void OtherHosts::take(HostLink& host, HostFailure& failure, Hold& hold) {
    PoolTask* task = end_on(host, failure.number);
    if (!task) {
        if (failure.chunk) end_rest(host, failure.chunk->rest);
        return;
    }
    ++host.failures;
    note(host, *task, 0, "failed");
    take_output(*task, failure.output);
    std::exception_ptr error = host_error(host, *task, failure);
    auto& chunk = failure.chunk;
    if (!chunk || !task->is_chunk() || chunk->items > task->items().end - task->items().begin)
        return policies_.retries.retry_or_fail(task, failure.kind, std::move(error), hold);
    std::uint64_t number = chunk->rest;
    PoolTaskRef rest;
    try {
        rest = policies_.chunks.split_at(task, {chunk->items, std::move(chunk->bytes)},
                                         failure.kind, error, hold);
    } catch (const std::bad_alloc&) {
        end_rest(host, number);
        return policies_.retries.retry_or_fail(task, failure.kind, std::move(error), hold);
    }
    if (!rest) return;
    if (rooms_.life.interrupted()) {
        end_rest(host, number);
        return rooms_.task_end.cancel(rest.get(), spare_errors().interrupted, hold);
    }
    if (number == 0)
        return rooms_.dispatcher.backlog().push_back(rest.get());  // it did not keep it
    try {
        host.tasks.emplace(number, rest.get());
        rest->place = PoolTask::Place::elsewhere;
        rest->more->host = host.index;
        rest->more->number = number;
    } catch (const std::bad_alloc&) {
        host.tasks.erase(number);
        end_rest(host, number);
        rooms_.task_end.fail(rest.get(), spare_errors().no_memory, hold);
    }
}

void OtherHosts::take(HostLink& host, HostCancelled& cancelled, Hold& hold) {
    auto found = host.recalled.find(cancelled.number);
    bool goes_on = found != host.recalled.end() && found->second == HostLink::Recall::for_elsewhere;
    PoolTask* task = end_on(host, cancelled.number);
    if (!task) return;
    if (rooms_.life.ending()) return fail_at_end(rooms_, task, hold);
    if (goes_on)
        return rooms_.dispatcher.backlog().push_back(task);  // told() is followed by a refill
    rooms_.task_end.cancel(task,
                           rooms_.life.interrupted() ? spare_errors().interrupted
                           : rooms_.life.running()   ? spare_errors().cancelled
                                                     : spare_errors().shut_down,
                           hold);
}

void OtherHosts::take(HostLink& host, HostBroken& broken, Hold& hold) {
    if (rooms_.life.ending()) return;
    policies_.end.break_down(
        broken_pool([&] { return fmt::format("{} (on host {})", broken.why, host.name); }), hold);
}

void OtherHosts::take(HostLink& host, HostClosed&, Hold& hold) {
    host.ended = true;
    for (const auto& [number, task] : std::exchange(host.tasks, {}))
        if (task) fail_at_end(rooms_, task, hold);
    hold.kick_supervisor();
}

void OtherHosts::take(HostLink& host, HostGone& gone, Hold& hold) {
    host.ended = host.lost = true;
    std::exception_ptr error = made_or(spare_errors().host_lost, [&] {
        return std::make_exception_ptr(HostLost(
            host.name, fmt::format("host {} is lost: {}; the tasks that it had may have run, in "
                                   "part or as a whole",
                                   host.name, gone.why)));
    });
    for (const auto& [number, task] : std::exchange(host.tasks, {})) {
        if (!task) continue;
        if (rooms_.life.ending())
            fail_at_end(rooms_, task, hold);
        else
            policies_.retries.retry_or_fail(task, FailureKind::crash, error, hold);
    }
    hold.kick_supervisor();
}

// --- their end ---------------------------------------------------------------------------------

bool OtherHosts::cancel(PoolTask& task, bool running_too, Hold& hold) {
    HostLink& host = hosts_[task.more->host];
    if (!running_too) {
        host.recalled[task.more->number] = HostLink::Recall::cancelled;
        host.lane->cancel(task.more->number, HostLane::Cancel::waiting_only);
        return false;
    }
    host.recalled.erase(task.more->number);
    host.lane->cancel(task.more->number, HostLane::Cancel::running_too);
    host.tasks.at(task.more->number) = nullptr;  // it is in the host's way until that says so
    rooms_.task_end.cancel(&task, spare_errors().cancelled, hold);
    hold.wake_waiters();
    return true;
}

void OtherHosts::cancel_waiting() {
    for (HostLink& host : hosts_) {
        for (const auto& [number, task] : host.tasks) {
            if (!task) continue;
            try {
                host.recalled[number] = HostLink::Recall::cancelled;
                host.lane->cancel(number, HostLane::Cancel::waiting_only);
            } catch (const std::bad_alloc&) {  // then it runs
            }
        }
    }
}

void OtherHosts::end(bool now) noexcept {
    for (HostLink& host : hosts_) {
        if (!host.takes_tasks()) continue;
        if (now)
            host.lane->terminate();
        else
            host.lane->close();
    }
}

bool OtherHosts::has_ended() const {
    for (const HostLink& host : hosts_)
        if (host.takes_tasks()) return false;
    return true;
}

void OtherHosts::for_each_task(const std::function<void(PoolTask*)>& f) const {
    for (const HostLink& host : hosts_)
        for (const auto& [number, task] : host.tasks)
            if (task) f(task);
}

}  // namespace sidestep::detail
