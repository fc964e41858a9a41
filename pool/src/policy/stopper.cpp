#include "policy/stopper.hpp"

#include <signal.h>

#include <utility>

#include "policy/pool_end.hpp"
#include "policy/task_notes.hpp"
#include "spare_errors.hpp"

namespace sidestep::inline v0::detail {

bool Stopper::stop(Lane& lane, FailureKind kind, std::exception_ptr error, Hold& hold,
                   std::optional<std::uint64_t> item) {
    PoolTask* task = lane.task_at(0);
    // Before it is asked to: an item that ends early for that has no result that counts.
    std::optional<PartialResult> finished;
    if (kind != FailureKind::cancelled) finished = ChunkRecovery::finished(lane, *task);
    if (item && finished && finished->items != *item) return false;
    if (!lane.stop(hold)) return false;
    task->is_cancelled = kind == FailureKind::cancelled;
    note_stopped(rooms_.insight, lane, *task, kind);
    ++count_;
    Stopping& stopping = *lane.stopping;
    stopping.kind = kind;
    stopping.key = task->options ? task->options->key : 0;
    stopping.next_at = sys::Clock::now();
    if (task->more) stopping.tokens = std::move(task->more->tokens);  // its end does not free them
    if (kind == FailureKind::out_of_memory) {
        stopping.step = Stopping::Step::killed;  // no time to ask
        lane.signal(SIGKILL, hold);
    } else {
        stopping.next_at = saturating_add(stopping.next_at, rooms_.options.stop_grace);
    }
    if (chunks_.recover(task, std::move(finished), kind, error, hold)) {
        // What was not finished is in new tasks: nothing is left of this one to be run again.
    } else if (retries_.may_retry(*task, kind)) {
        task->place = PoolTask::Place::stopping;
        stopping.task = task;
        stopping.error = std::move(error);
    } else {
        stopping.arguments = std::exchange(task->block, 0);
        rooms_.task_end.fail(task, std::move(error), hold);
    }
    if (task->kept()) {
        stopping.kept.swap(task->more->kept_place);
        stopping.kept.front() = task->kept();
    }
    hold.kick_supervisor();
    return true;
}

void Stopper::stopped(Stopping done, Hold& hold) noexcept {
    --count_;
    if (done.arguments) rooms_.arguments.free(done.arguments);
    if (done.task && !done.kept.empty()) {  // it may be stopped once more; and it has them still
        done.kept.front() = nullptr;
        done.task->more->kept_place.swap(done.kept);
    }
    hold.drop_later(std::move(done.kept));
    if (done.tokens) rooms_.task_end.free_tokens(*done.tokens);
    if (done.task && done.tokens) done.task->more->tokens = std::move(done.tokens);
    if (!done.task) return;
    if (rooms_.life.ending())
        fail_at_end(rooms_, done.task, hold);
    else
        retries_.retry_or_fail(done.task, done.kind, std::move(done.error), hold);
}

void Stopper::climb(Lane& lane, sys::Clock::time_point now, Hold& hold) {
    if (!lane.stopping) return;
    Stopping& stopping = *lane.stopping;
    if (stopping.step == Stopping::Step::killed) return;
    if (now >= stopping.next_at && stopping.step == Stopping::Step::asked) {
        stopping.step = Stopping::Step::terminated;
        stopping.next_at = saturating_add(now, rooms_.options.terminate_grace);
        lane.signal(SIGTERM, hold);
    } else if (now >= stopping.next_at) {
        stopping.step = Stopping::Step::killed;
        return lane.signal(SIGKILL, hold);
    }
    rooms_.timers.set_earlier(Timers::Purpose::policies, stopping.next_at);
}

// Takes the task out of wherever it waits. False: a lane has it, and has begun it.
bool Stopper::forget_waiting(PoolTask& task, Hold& hold) {
    switch (task.place) {
        case PoolTask::Place::backlog:
        case PoolTask::Place::delayed:
            rooms_.dispatcher.backlog().remove(task);
            return true;
        case PoolTask::Place::lane:
            // What is behind it in the lane comes back too, and goes to whoever is free.
            if (!task.lane->take_back_task(task, hold)) return false;
            rooms_.dispatcher.backlog().remove(task);
            return true;
        case PoolTask::Place::stopping:
            task.lane->stopping->task = nullptr;
            task.lane->stopping->arguments = std::exchange(task.block, 0);
            return true;
        case PoolTask::Place::asked:
            retries_.forget(task);
            return true;
        case PoolTask::Place::late:
            late_.forget(task, hold);
            return true;
        case PoolTask::Place::new_:
        case PoolTask::Place::elsewhere:
        case PoolTask::Place::done:
            break;
    }
    return false;
}

void Stopper::hurry(PoolTask& task, std::int32_t priority, Hold& hold) {
    if (task.place == PoolTask::Place::lane) (void)task.lane->take_back_task(task, hold);
    const bool waits = task.place == PoolTask::Place::backlog;
    if (waits) rooms_.dispatcher.backlog().remove(task);
    task.priority = priority;
    if (waits) return rooms_.dispatcher.place_late(&task, hold);
    rooms_.dispatcher.refill(hold);  // what was behind it came back
}

bool Stopper::cancel(PoolTask& task, bool running_too, Hold& hold) {
    if (task.place == PoolTask::Place::done) return task.is_cancelled;
    if (task.place == PoolTask::Place::new_ || rooms_.life.ending()) return false;
    if (task.place == PoolTask::Place::elsewhere)
        return rooms_.dispatcher.elsewhere()->cancel(task, running_too, hold);
    const std::exception_ptr& error = spare_errors().cancelled;
    // A worker goes on meanwhile: at the third look at the latest the task is not where it was, or
    // runs, or its worker is dead and the supervisor is to sort what that had.
    for (int look = 0; look < 3 && task.place != PoolTask::Place::done; ++look) {
        if (forget_waiting(task, hold)) {
            rooms_.task_end.cancel(&task, error, hold);
            break;
        }
        if (!running_too) break;
        Lane& lane = *task.lane;
        if (lane.front_runs() && lane.task_at(0) == &task) {
            (void)stop(lane, FailureKind::cancelled, error, hold);
            break;
        }
        (void)lane.drain(hold);  // what was in front of it has ended, or it has
    }
    rooms_.dispatcher.refill(hold);
    hold.wake_waiters();
    return task.is_cancelled;
}

}  // namespace sidestep::detail
