// What becomes of tasks when their pool ends before they do: it was terminated, broke, or is to
// begin nothing more.
#pragma once

#include <exception>

#include <sidestep/detail/pool_task.hpp>

#include "policy/late_tasks.hpp"
#include "policy/pool_rooms.hpp"
#include "policy/retry_desk.hpp"

namespace sidestep::inline v0::detail {

// A task that was not done when the pool was terminated, or broke.
void fail_at_end(const PoolRooms& rooms, PoolTask* task, Hold& hold) noexcept POOL_LOCKED;

// What lanes have, fails when they hand it back or lose it.
class PoolEnd {
  public:
    PoolEnd(const PoolRooms& rooms, RetryDesk& retries, LateTasks& late)
        : rooms_(rooms), retries_(retries), late_(late) {}

    // The pool is broken, for that reason (a BrokenPool); its workers are killed.
    void break_down(std::exception_ptr reason, Hold& hold) noexcept POOL_LOCKED;
    // Of a pool that was terminated.
    void cancel_all(Hold& hold) POOL_LOCKED;
    // Of one that goes on with what was begun.
    void cancel_waiting(Hold& hold) POOL_LOCKED;
    // Of one that goes, and with it whoever would wait for what they wait for.
    void cancel_late(Hold& hold) POOL_LOCKED;

  private:
    template <class F>
    void for_each_waiting(F end, Hold& hold) POOL_LOCKED;

    const PoolRooms rooms_;
    RetryDesk& retries_;
    LateTasks& late_;
};

}  // namespace sidestep::detail
