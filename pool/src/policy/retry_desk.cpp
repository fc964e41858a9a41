#include "policy/retry_desk.hpp"

#include <new>
#include <utility>
#include <vector>

#include <sidestep/remote_error.hpp>
#include <sidestep/task_options.hpp>

#include "task/attempts.hpp"

namespace sidestep::inline v0::detail {

void RetryDesk::expect(const PoolTask& task) {
    if (task.options && task.options->retry.when) thread_.start();
}

bool RetryDesk::may_retry(const PoolTask& task, FailureKind kind) const {
    if (!task.options || !rooms_.life.allows_retries()) return false;
    const Retry& retry = task.options->retry;
    return kind != FailureKind::cancelled && has_attempts(retry, task.failures) &&
           !reached_limit(retry, task.failures, kind);
}

void RetryDesk::retry_or_fail(PoolTask* task, FailureKind kind, std::exception_ptr error,
                              Hold& hold) noexcept {
    if (!may_retry(*task, kind)) return rooms_.task_end.fail(task, std::move(error), hold);
    try {
        count_and_ask(
            task, kind, [error] { return error; }, hold);
    } catch (const std::bad_alloc&) {
        rooms_.task_end.fail(task, std::move(error), hold);
    }
}

bool RetryDesk::retry_reply(PoolTask& task, const TaskReply& reply, Hold& hold) {
    try {
        std::vector<std::byte> bytes(reply.bytes.begin(), reply.bytes.end());
        count_and_ask(
            &task, FailureKind::error,
            [bytes = std::move(bytes)]() -> std::exception_ptr {
                try {
                    InputArchive archive(bytes);
                    return load_exception(archive);
                } catch (...) {
                    return std::current_exception();
                }
            },
            hold);
        drop_reply(reply);
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

// Runs it again, or asks Retry::when first: users' code, so in a thread for that. (Not in that of
// the callbacks: one may wait for this task.)
void RetryDesk::count_and_ask(PoolTask* task, FailureKind kind, const MakeError& error,
                              Hold& hold) {
    Callbacks question;
    if (task->options->retry.when) {  // what may fail for want of memory comes first
        task->add_reference();
        PoolTaskRef reference(task);
        question.emplace_back([this, reference = std::move(reference), error] {
            ask_retry_filter(*reference, error());
        });
        asked_.insert(task);
    }
    if (TokenUse* use = task->tokens()) rooms_.task_end.free_tokens(*use);
    ++task->failures.attempts;
    if (kind == FailureKind::crash) ++task->failures.crashes;
    if (kind == FailureKind::out_of_memory) ++task->failures.out_of_memory;
    if (question.empty()) return run_again(task, hold);
    task->place = PoolTask::Place::asked;
    thread_.post(std::move(question));
}

void RetryDesk::ask_retry_filter(PoolTask& task, const std::exception_ptr& error) {
    bool again = wants_retry(task.options->retry, error);
    Hold hold(rooms_.mutex, rooms_.sleepers);
    if (asked_.erase(&task) == 0) return;  // it is done meanwhile
    if (again && rooms_.life.allows_retries()) {
        run_again(&task, hold);
        rooms_.dispatcher.refill(hold);
    } else {
        rooms_.task_end.fail(&task, error, hold);
    }
    hold.wake_waiters();
}

// If there is no memory to remember a pause, it is run again at once.
void RetryDesk::run_again(PoolTask* task, Hold& hold) {
    rooms_.insight.note_retry();
    auto pause = retry_pause(task->options->retry, task->failures.attempts);
    if (pause.count() <= 0) return wait_again(task, hold);
    try {
        rooms_.dispatcher.backlog().pause(task, saturating_add(sys::Clock::now(), pause));
    } catch (const std::bad_alloc&) {
        return wait_again(task, hold);
    }
    hold.kick_supervisor();
}

// One whose key is a worker's of another host is not kept from it by what waits for workers here.
void RetryDesk::wait_again(PoolTask* task, Hold& hold) {
    Elsewhere* elsewhere = rooms_.dispatcher.elsewhere();
    if (elsewhere && elsewhere->take_by_key(*task)) return;
    rooms_.dispatcher.wait_again(task, hold);
}

// close() may come in another thread at any time.
bool RetryDesk::retry_here(PoolTask& task, const std::exception_ptr& error) {
    {
        PoolLock lock(rooms_.mutex);
        if (!may_retry(task, FailureKind::error)) return false;
    }
    if (!wants_retry(task.options->retry, error)) return false;
    ++task.failures.attempts;
    pause_here(task);
    return true;
}

void RetryDesk::pause_here(const PoolTask& task) {
    (void)detail::pause_here(retry_pause(task.options->retry, task.failures.attempts));
}

bool RetryDesk::end_pauses(sys::Clock::time_point now, Hold& hold) {
    bool any = false;
    while (PoolTask* task = rooms_.dispatcher.backlog().pop_rested(now)) {
        wait_again(task, hold);
        any = true;
    }
    return any;
}

}  // namespace sidestep::detail
