// What an agent says of tasks that are done.
#include "agent.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>
#include <utility>

#include <fmt/format.h>

#include <sidestep/remote_error.hpp>

#include "agent_pool.hpp"
#include "no_memory_for.hpp"
#include "pool_access.hpp"
#include "pool_core.hpp"

namespace sidestep::inline v0::detail {
namespace {

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

// This thread waits for no worker: it has the others' words to carry.
void Agent::answer(std::size_t tag) {
    auto stack = stack_to_come(*flights_.at(tag).task);
    if (!stack) return answer_now(tag);
    unlocated_.push_back({tag, std::move(stack), sys::Clock::now() + kMostForStack});
}

bool Agent::take_located() {
    bool any = false;
    const auto now = sys::Clock::now();
    for (std::size_t i = 0; i < unlocated_.size();) {
        const Unlocated& each = unlocated_[i];
        // A pool that has ended is about to say so, and nothing comes behind that.
        auto pool = pools_.find(flights_.at(each.tag).pool);
        const bool has_ended = pool == pools_.end() || pool->second->has_ended;
        if (!each.stack->is_there() && now < each.give_up && !has_ended) {
            ++i;
            continue;
        }
        each.stack->settle();
        answer_now(each.tag);
        unlocated_.erase(unlocated_.begin() + static_cast<std::ptrdiff_t>(i));
        any = true;
    }
    return any;
}

// What there is no memory for costs the task that it is about.
void Agent::answer_now(std::size_t tag) {
    const Flight& flight = flights_.at(tag);
    try {
        answer_in_full(flight);
    } catch (const std::bad_alloc&) {
        answer_failure({flight.pool, flight.number, {}},
                       std::make_exception_ptr(NoMemoryFor(
                           "task {} has run on host {}, which had no memory for its answer: give "
                           "that host more, or have tasks return and print less",
                           flight.number, this_task::host())));
        if (const PoolTask::Split* split = flight.task->split(); split && split->rest) {
            try {
                split->rest->cancel_parts(true);
            } catch (const std::bad_alloc&) {  // then it runs, for nobody
            }
        }
    }
    unwatch(tag);
}

void Agent::answer_in_full(const Flight& flight) {
    const PoolTask& task = *flight.task;
    PoolTask::Ending ending = task.ending();
    if (ending.failure) return answer_failure(flight, ending.failure);
    if (task.split()) return answer_failure(flight, task.split()->error);
    WiredReply reply{flight.pool, flight.number, ending.has_value, task.duration_ns(), {}};
    if (const TaskOutput* output = task.output()) reply.output.output = *output;
    Frame frame = framed(MessageKind::reply, reply);
    frame.body = ending.bytes;
    frame.keep = std::make_shared<PoolTaskRef>(flight.task);
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
    std::size_t rest = 0;  // the tag of what is left of a chunk
    if (PoolTask* task = flight.task.get()) {
        if (const TaskOutput* output = task->output()) failure.output.output = *output;
        if (const PoolTask::Split* split = task->split()) {
            failure.is_chunk = true;
            failure.items = task->items_done();
            if (split->rest && pool != pools_.end()) {
                failure.rest = ++last_rest_;
                rest = watch(*pool->second, failure.rest, split->rest);
            }
            frame.body = task->ending().bytes;
        }
    }
    try {
        if (flight.task) frame.keep = std::make_shared<PoolTaskRef>(flight.task);
        frame.head = packed(MessageKind::failure, failure);
        say(std::move(frame));
    } catch (const std::bad_alloc&) {
        if (rest != 0) unwatch(rest);
        throw;
    }
}

}  // namespace sidestep::detail
