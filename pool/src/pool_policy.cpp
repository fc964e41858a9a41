// What becomes of a task that fails, runs too long, uses too much or is not wanted any more:
// retries, timeouts, memory limits, cancellation.
//
// A task that runs is stopped by evicting it from its ring: its future is done at once (unless it
// is to be run again), what waits behind it is taken back, and the ring takes nothing new. So when
// its worker is ended by a signal, or finishes in time, no other task can be hit.
#include <signal.h>

#include <algorithm>
#include <new>

#include <sidestep/detail/chunk.hpp>
#include <sidestep/pool_errors.hpp>
#include <sidestep/remote_error.hpp>

#include "pool_core.hpp"
#include "process_memory.hpp"
#include "spare_errors.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
constexpr std::chrono::nanoseconds kMemoryLook = 20ms;
constexpr auto kPolicies = Timers::Purpose::policies;

}  // namespace

sys::Clock::time_point later(sys::Clock::time_point now, std::chrono::nanoseconds duration) {
    auto longest = sys::Clock::time_point::max() - now;
    return duration >= longest ? sys::Clock::time_point::max() : now + duration;
}

// --- running again -----------------------------------------------------------------------------

// Before this failure is counted; Retry::when has not been asked yet.
bool PoolCore::may_retry(const PoolTask& task, FailureKind kind) const {
    if (!task.options_ || !life_.allows_retries()) return false;
    const Retry& retry = task.options_->retry;
    if (task.attempts_ + 1u >= retry.max_attempts) return false;
    if (kind == FailureKind::cancelled) return false;
    if (kind == FailureKind::crash) return task.crashes_ + 1u < retry.max_crashes;
    if (kind == FailureKind::out_of_memory)
        return task.out_of_memory_ + 1u < retry.max_out_of_memory;
    return true;
}

// The task is in no list. Either it is run again, or it fails with this error; that also if there
// is no memory for another attempt.
void PoolCore::settle(PoolTask* task, FailureKind kind, std::exception_ptr error, Hold& hold) {
    if (!may_retry(*task, kind)) return task_end_.fail(task, std::move(error), hold);
    try {
        judge(
            task, kind, [error] { return error; }, hold);
    } catch (const std::bad_alloc&) {
        task_end_.fail(task, std::move(error), hold);
    }
}

void PoolCore::settle_error_reply(WorkerLink& link, const Reply& reply, PoolTask* task,
                                  Hold& hold) {
    try {
        const std::byte* data = reply.block
                                    ? link.memory->results.data() + Arena::offset(reply.block)
                                    : reply.inline_bytes;
        std::vector<std::byte> bytes(data, data + reply.size);
        judge(
            task, FailureKind::error,
            [bytes = std::move(bytes)]() -> std::exception_ptr {
                try {
                    InputArchive archive(bytes);
                    return load_exception(archive);
                } catch (...) {
                    return std::current_exception();
                }
            },
            hold);
        if (reply.block) link.memory->take_back(reply.block);
        note_duration(reply.duration_ns);
    } catch (const std::bad_alloc&) {  // no other attempt: this one's error is its result
        accept_reply(link, reply, *task);
        task_end_.complete(task, hold);
    }
}

// Runs it again, or asks Retry::when first: users' code, so in a thread for that. (Not in that of
// the callbacks: one may wait for this task.)
void PoolCore::judge(PoolTask* task, FailureKind kind,
                     const std::function<std::exception_ptr()>& error, Hold& hold) {
    Callbacks question;
    if (task->options_->retry.when) {  // what may fail for want of memory comes first
        task->add_reference();
        PoolTaskRef reference(task);
        question.emplace_back([this, reference = std::move(reference), error] {
            ask_retry_filter(*reference, error());
        });
        judged_.insert(task);
    }
    ++task->attempts_;
    if (kind == FailureKind::crash) {
        ++task->crashes_;
        barren_deaths_ = 0;  // its worker had begun something
    }
    if (kind == FailureKind::out_of_memory) ++task->out_of_memory_;
    if (question.empty()) return run_again(task, hold);
    task->place_ = PoolTask::Place::judged;
    judges_.post(std::move(question));
}

// Without the mutex, in the thread for that.
void PoolCore::ask_retry_filter(PoolTask& task, const std::exception_ptr& error) {
    bool again = wants_retry(task.options_->retry, error);
    Hold hold(mutex_, *this);
    if (judged_.erase(&task) == 0) return;  // it is done meanwhile
    if (again && life_.allows_retries()) {
        run_again(&task, hold);
        refill(hold);
    } else {
        task_end_.fail(&task, error, hold);
    }
    hold.wake_waiters();
}

// If there is no memory to remember a pause, it is run again at once.
void PoolCore::run_again(PoolTask* task, Hold& hold) {
    insight_.note_retry();
    auto pause = retry_pause(task->options_->retry, task->attempts_);
    if (pause.count() <= 0) return wait_again(task);
    try {
        backlog_.pause(task, later(sys::Clock::now(), pause));
    } catch (const std::bad_alloc&) {
        return wait_again(task);
    }
    hold.kick_supervisor();
}

void PoolCore::wait_again(PoolTask* task) {
    if (backlog_.has_priorities()) overtake(*task);
    backlog_.push_back(task);
}

void PoolCore::start_delayed(sys::Clock::time_point now, Hold& hold) {
    bool any = false;
    while (PoolTask* task = backlog_.pop_rested(now)) {
        wait_again(task);
        any = true;
    }
    if (any) refill(hold);
}

// --- stopping a task that runs -----------------------------------------------------------------

// The task at the front of the ring is being run (a hint: it may be done the next moment).
bool PoolCore::front_runs(WorkerLink& link) {
    return link.alive && link.ring().in_flight() > 0 &&
           link.ring().slot(link.ring().consumed()).state.load(std::memory_order_acquire) ==
               SlotState::taken;
}

// Requires: front_runs(), and the front is a task.
void PoolCore::evict(WorkerLink& link, FailureKind kind, std::exception_ptr error, Hold& hold) {
    RingParent& ring = link.ring();
    PoolTask* task = std::exchange(link.shadow[ring.position(ring.consumed())], nullptr);
    keep_output(link, *task);
    ring.ask_to_stop(task->serial_);
    note_stopped(link, *task, kind);
    take_back_from(link, ring.consumed() + 1);
    Eviction& eviction = link.eviction.emplace();
    ++evictions_;
    eviction.kind = kind;
    eviction.key = task->options_ ? task->options_->key : 0;
    eviction.next_at = sys::Clock::now();
    if (kind == FailureKind::out_of_memory) {
        eviction.step = Eviction::Step::killed;  // no time to ask
        signal_worker(link, SIGKILL, hold);
    } else {
        eviction.next_at = later(eviction.next_at, options_.stop_grace);
    }
    if (kind != FailureKind::cancelled && split_if_memory(link, task, kind, error, hold)) {
        // Its parts have what it leaves.
    } else if (may_retry(*task, kind)) {
        task->place_ = PoolTask::Place::evicted;
        eviction.task = task;
        eviction.error = std::move(error);
    } else {
        eviction.arguments = std::exchange(task->argument_block_, 0);
        task_end_.fail(task, std::move(error), hold);
    }
    eviction.kept = task->kept_;
    hold.kick_supervisor();
}

// The worker has finished the task after all, or is dead.
void PoolCore::finish_eviction(WorkerLink& link, Hold& hold) {
    Eviction eviction = std::move(*link.eviction);
    link.eviction.reset();
    --evictions_;
    link.ring().ask_to_stop(0);  // it may run again here, with the same number
    if (eviction.arguments) args_.free(eviction.arguments);
    if (eviction.kept) hold.drop_later(std::move(eviction.kept));
    if (!eviction.task) return;
    if (life_.ending())
        fail_at_end(eviction.task, hold);
    else
        settle(eviction.task, eviction.kind, std::move(eviction.error), hold);
}

void PoolCore::continue_eviction(WorkerLink& link, sys::Clock::time_point now, Hold& hold) {
    Eviction& eviction = *link.eviction;
    if (eviction.step == Eviction::Step::killed || now < eviction.next_at) return;
    if (eviction.step == Eviction::Step::asked) {
        eviction.step = Eviction::Step::terminated;
        eviction.next_at = later(now, options_.terminate_grace);
        signal_worker(link, SIGTERM, hold);
    } else {
        eviction.step = Eviction::Step::killed;
        signal_worker(link, SIGKILL, hold);
    }
}

// --- deadlines and limits ----------------------------------------------------------------------

// A task was put into a ring: does the supervisor look in time?
void PoolCore::watch_policy(const PoolTask& task, Hold& hold) {
    const TaskOptions& options = *task.options_;
    auto look = kNoTimeout;
    if (options.timeout.count() > 0) look = options.timeout;
    if (options.memory_limit > 0 && options.memory_limit != kNoLimit)
        look = std::min(look, kMemoryLook);
    if (look == kNoTimeout) return;
    policies_in_flight_ = true;
    if (look >= policy_look_) return;
    policy_look_ = look;
    timers_.set(kPolicies, later(sys::Clock::now(), look));
    hold.kick_supervisor();
}

// On the supervisor's thread: does what is due, and finds out when to look again.
void PoolCore::enforce(Hold& hold) {
    auto now = sys::Clock::now();
    // The supervisor wakes for many reasons, and to look at all that is in flight costs more than
    // the tasks. Only what was stopped or put off can be due before the time that was found.
    bool none_put_off = evictions_ == 0 && !backlog_.first_pause_ends();
    bool early = timers_.is_set(kPolicies) && !timers_.is_due(kPolicies, now);
    if (early && none_put_off) return;
    timers_.clear(kPolicies);  // also when nothing is left to look at: what is past keeps it awake
    if (!policies_in_flight_ && none_put_off) return;
    std::uint64_t completed = task_end_.completed();
    start_delayed(now, hold);
    policy_look_ = kNoTimeout;
    bool looked = std::exchange(policies_in_flight_, false);
    for (WorkerLink& link : links_) {
        if (link.eviction) drain(link, hold);  // it may have ended in time
        if (link.eviction) continue_eviction(link, now, hold);
        if (looked && link.alive) enforce(link, now, hold);
        if (link.eviction && link.eviction->step != Eviction::Step::killed)
            timers_.set_earlier(kPolicies, link.eviction->next_at);
    }
    if (policies_in_flight_) timers_.set_earlier(kPolicies, later(now, policy_look_));
    if (sys::Deadline end = backlog_.first_pause_ends()) timers_.set_earlier(kPolicies, *end);
    if (task_end_.completed() != completed) {
        refill(hold);
        hold.wake_waiters();
    }
}

// The item of a chunk that the worker is at, from 0; 0 if it is no chunk.
std::uint64_t PoolCore::front_item(WorkerLink& link, const PoolTask& task) {
    if (!task.is_chunk()) return 0;
    // SYNC(partial): acquire, so that the start that is read next is that item's, or a later one's.
    return ChunkProgress::items(
        link.ring().slot(link.ring().consumed()).progress.load(std::memory_order_acquire));
}

// When the task at the front was begun, or that item of it. The worker says so, to the nanosecond;
// but whoever scribbles there must not stop the clock, or turn it back (I7): what does not lie
// between two looks of ours is not believed, and then it runs since the second one. On each look at
// a front, running or not.
sys::Clock::time_point PoolCore::front_begun(WorkerLink& link, std::uint64_t item,
                                             sys::Clock::time_point now) {
    FrontClock& clock = link.front_clock;
    RingParent& ring = link.ring();
    bool runs = front_runs(link);
    if (clock.index != ring.consumed() || clock.item != item || clock.runs != runs) {
        clock.index = ring.consumed();
        clock.item = item;
        clock.runs = runs;
        clock.not_before = clock.looked_at;
        clock.seen_at = now;
    }
    clock.looked_at = now;
    // Relaxed: hints.
    std::uint64_t word = ring.slot(ring.consumed()).started_ns.load(std::memory_order_relaxed);
    const PoolTask* task = link.shadow[ring.position(ring.consumed())];
    if (word == 0 || !task || !task->is_chunk())
        word = link.memory->words().since.load(std::memory_order_relaxed) >> 1;
    sys::Clock::time_point said{std::chrono::nanoseconds(static_cast<std::int64_t>(word))};
    return said >= clock.not_before && said <= clock.seen_at ? said : clock.seen_at;
}

// A task that has not begun cannot be late before its whole timeout has passed from now on.
void PoolCore::enforce(WorkerLink& link, sys::Clock::time_point now, Hold& hold) {
    RingParent& ring = link.ring();
    if (link.corrupt) return;
    for (std::uint64_t i = ring.consumed(); i < ring.published(); ++i) {
        PoolTask* task = link.shadow[ring.position(i)];
        if (!task || !task->options_) continue;
        std::chrono::nanoseconds timeout = task->options_->timeout;
        bool limited = task->options_->memory_limit > 0 && task->options_->memory_limit != kNoLimit;
        if (timeout.count() > 0 && timeout != kNoTimeout) {
            auto left = timeout;
            if (i == ring.consumed()) {
                std::uint64_t item = front_item(link, *task);
                auto begun = front_begun(link, item, now);
                if (link.front_clock.runs) left = timeout - (now - begun);
                if (left.count() <= 0) return time_out(link, *task, item, hold);
            }
            policies_in_flight_ = true;
            policy_look_ = std::min(policy_look_, left);
        }
        if (!limited) continue;
        if (i == ring.consumed() && front_runs(link)) {
            link.limited = task->serial_;
            link.memory_limit = task->options_->memory_limit;
        }
        policies_in_flight_ = true;
        policy_look_ = std::min(policy_look_, kMemoryLook);
    }
}

// P5: what a worker uses is read under a lock of the worker's own, which that may hold for long.
// (Links and their processes change in this thread only.)
void PoolCore::enforce_memory_limits() {
    for (WorkerLink& link : own_links()) {
        std::uint64_t serial = std::exchange(link.limited, 0);
        if (serial == 0 || !link.alive) continue;
        int pid = link.process.pid;
        auto resident = resident_memory(pid);
        if (resident && *resident <= link.memory_limit) continue;  // cheap, and never too small
        auto used = proportional_memory(pid);
        // One that may not be looked into: by how much it has grown. What it shared with its parent
        // when it started is not its own.
        if (auto own = used ? std::nullopt : private_memory(pid))
            used = *own - std::min(*own, link.memory_at_start);
        if (used && *used <= link.memory_limit) continue;
        Hold hold(mutex_, *this);
        // Nobody can tell: it cannot be held to its limit.
        enforce_memory_limit(link, serial, used.value_or(0), hold);
    }
}

// The number is of a moment ago: the task that runs now may have begun since, and is looked at
// again.
void PoolCore::enforce_memory_limit(WorkerLink& link, std::uint64_t serial, std::size_t used,
                                    Hold& hold) {
    if (life_.ending() || !front_runs(link)) return;
    PoolTask* task = link.shadow[link.ring().position(link.ring().consumed())];
    if (!task || task->serial_ != serial || !task->options_) return;
    auto error = made_or(spare_errors().out_of_memory, [&] {
        TaskError::Details details = describe(link, *task);
        details.limit = link.memory_limit;
        details.used = used;
        return std::make_exception_ptr(OutOfMemory(std::move(details)));
    });
    evict(link, FailureKind::out_of_memory, std::move(error), hold);
    refill(hold);
    hold.wake_waiters();
}

// item: the one that is late. If the worker has gone on to the next one meanwhile, that is not.
void PoolCore::time_out(WorkerLink& link, const PoolTask& task, std::uint64_t item, Hold& hold) {
    auto error = made_or(spare_errors().timed_out, [&] {
        TaskError::Details details = describe(link, task);
        details.limit = static_cast<std::uint64_t>(task.options_->timeout.count());
        return std::make_exception_ptr(TaskTimeout(std::move(details)));
    });
    if (front_runs(link) && front_item(link, task) == item)
        return evict(link, FailureKind::timeout, error, hold);
    policies_in_flight_ = true;
    policy_look_ = std::chrono::nanoseconds(0);  // look again at once
}

// --- cancelling --------------------------------------------------------------------------------

bool PoolCore::running(PoolTask& task) {
    if (!owned_here()) return false;
    Hold hold(mutex_, *this);
    if (drain(hold)) hold.wake_waiters();
    return task.place_ == PoolTask::Place::ring && front_runs(links_[task.link_]) &&
           task.index_ == links_[task.link_].ring().consumed();
}

// Takes the task out of wherever it waits. False: it is in a ring, and has been begun.
bool PoolCore::forget_waiting(PoolTask& task) {
    switch (task.place_) {
        case PoolTask::Place::backlog:
        case PoolTask::Place::delayed:
            backlog_.remove(task);
            return true;
        case PoolTask::Place::ring:
            // What is behind it in the ring comes back too, and goes to whoever is free.
            if (!take_back_from(links_[task.link_], task.index_)) return false;
            backlog_.remove(task);
            return true;
        case PoolTask::Place::evicted:
            for (WorkerLink& link : links_)
                if (link.eviction && link.eviction->task == &task) {
                    link.eviction->task = nullptr;
                    link.eviction->arguments = std::exchange(task.argument_block_, 0);
                }
            return true;
        case PoolTask::Place::judged:
            judged_.erase(&task);
            return true;
        case PoolTask::Place::new_:
        case PoolTask::Place::done:
            break;
    }
    return false;
}

bool PoolCore::cancel(PoolTask& task, Cancel mode) {
    if (!owned_here()) return false;
    Hold hold(mutex_, *this);
    if (drain(hold)) hold.wake_waiters();
    if (task.place_ == PoolTask::Place::done) return task.cancelled_;
    if (task.place_ == PoolTask::Place::new_ || life_.ending()) return false;
    const std::exception_ptr& error = spare_errors().cancelled;
    // A worker goes on meanwhile: at the third look at the latest the task is not where it was, or
    // runs, or its worker is dead and the supervisor is to sort what that had.
    for (int look = 0; look < 3 && task.place_ != PoolTask::Place::done; ++look) {
        if (forget_waiting(task)) {
            task.cancelled_ = true;
            task_end_.fail(&task, error, hold);
            break;
        }
        if (mode != Cancel::running_too) break;
        WorkerLink& link = links_[task.link_];
        if (front_runs(link) && task.index_ == link.ring().consumed()) {
            task.cancelled_ = true;
            evict(link, FailureKind::cancelled, error, hold);
            break;
        }
        (void)drain(link, hold);  // what was in front of it has ended, or it has
    }
    refill(hold);
    hold.wake_waiters();
    return task.cancelled_;
}

void PoolCore::cancel_waiting() {
    require_owner();
    Hold hold(mutex_, *this);
    life_.cancel_maps();
    drain(hold);
    for (WorkerLink& link : links_)
        if (link.alive && !link.stopping) take_back_from(link, link.ring().consumed());
    fail_everything([&](PoolTask* task)
                        POOL_LOCKED { task_end_.cancel(task, spare_errors().shut_down, hold); });
    hold.wake_waiters();
}

}  // namespace sidestep::detail
