// Whether a task that failed is run again, and when. No other class reads Retry, but for PoolTask:
// what it has to have had memory for (submit), and an item of a chunk (run_item_again); and what
// errors say of it (task/attempts.hpp).
#pragma once

#include <exception>
#include <functional>
#include <set>

#include <sidestep/detail/pool_task.hpp>

#include "lanes/task_reply.hpp"
#include "policy/pool_rooms.hpp"
#include "service_thread.hpp"
#include "sys/sys.hpp"
#include "task/failure_kind.hpp"

namespace sidestep::inline v0::detail {

class RetryDesk {
  public:
    explicit RetryDesk(const PoolRooms& rooms) : rooms_(rooms) {}

    // A task is submitted: Retry::when may have to be asked about it later. Throws
    // std::system_error.
    void expect(const PoolTask& task);
    // Before this failure is counted; Retry::when has not been asked yet.
    bool may_retry(const PoolTask& task, FailureKind kind) const POOL_LOCKED;
    // The task is in no place. Either it is run again, or it fails with this error; that also if
    // there is no memory for another attempt.
    void retry_or_fail(PoolTask* task, FailureKind kind, std::exception_ptr error,
                       Hold& hold) noexcept POOL_LOCKED;
    // It failed with what the reply says, and may be run again. False: there is no memory for that,
    // so the reply is its result.
    bool retry_reply(PoolTask& task, const TaskReply& reply, Hold& hold) POOL_LOCKED;
    // Once more, after the pause that its options ask for.
    void run_again(PoolTask* task, Hold& hold) POOL_LOCKED;
    // The same for an attempt in this thread: pauses. False: it is not run again.
    bool retry_here(PoolTask& task, const std::exception_ptr& error) POOL_UNLOCKED;
    void pause_here(const PoolTask& task) POOL_UNLOCKED;
    // Tasks whose pause is over wait again. True: there were such.
    bool end_pauses(sys::Clock::time_point now, Hold& hold) POOL_LOCKED;

    // Retry::when is asked about them: they are in no other place.
    void forget(PoolTask& task) POOL_LOCKED { asked_.erase(&task); }
    std::set<PoolTask*> take_all() noexcept POOL_LOCKED { return std::exchange(asked_, {}); }
    const std::set<PoolTask*>& asked() const POOL_LOCKED { return asked_; }

    CallbackThread& thread() { return thread_; }

  private:
    using MakeError = std::function<std::exception_ptr()>;

    void count_and_ask(PoolTask* task, FailureKind kind, const MakeError& error,
                       Hold& hold) POOL_LOCKED;
    void ask_retry_filter(PoolTask& task, const std::exception_ptr& error) POOL_UNLOCKED;
    void wait_again(PoolTask* task, Hold& hold) POOL_LOCKED;

    const PoolRooms rooms_;
    CallbackThread thread_;  // Retry::when: a callback may wait for its answer
    std::set<PoolTask*> asked_ POOL_GUARDED;
};

}  // namespace sidestep::detail
