// Who works while a worker's task waits for a nested one: as many workers as the pool is to have
// get tasks at any time, those that wait not counted.
#pragma once

#include <cstdint>

#include "lanes/lane.hpp"
#include "policy/pool_rooms.hpp"

namespace sidestep::inline v0::detail {

// Threads: the caller serialises, by the pool's mutex.
class Relief {
  public:
    explicit Relief(const PoolRooms& rooms) : rooms_(rooms), target_(*rooms.options.processes) {}

    // The pool is to have so many workers, those that wait not counted.
    void set_target(std::uint32_t target, Hold& hold) POOL_LOCKED;
    // So many more processes there are to be.
    std::uint32_t helpers() const POOL_LOCKED { return helpers_; }

    // The task of that worker waits, or runs nested ones, or goes on. Nothing happens if the lane
    // has another process by now.
    void set_duty(std::uint32_t lane, int pid, LaneDuty duty, Hold& hold) POOL_LOCKED;
    // Nobody can take the place of some that wait.
    bool is_short() const POOL_LOCKED { return active_ < target_; }
    // The lowest priority of nested tasks that need a worker of their own: they are begun before
    // all that wait. Else a pool would begin more and more tasks that wait for some of these.
    static constexpr std::int32_t kOwnWorker = 1 << 30;
    // While nobody can begin such a task, since all wait, there are more workers.
    void grow_if_needed(Hold& hold) POOL_LOCKED;
    // All workers run again, or one is gone.
    void share_out(Hold& hold) POOL_LOCKED;
    // The pool has had nothing to do for long: those that came later leave.
    void dismiss(Hold& hold) POOL_LOCKED;

  private:
    std::uint32_t most_helpers() const POOL_LOCKED;

    const PoolRooms rooms_;
    std::uint32_t target_ POOL_GUARDED;
    std::uint32_t helpers_ POOL_GUARDED = 0;
    std::uint32_t grown_ POOL_GUARDED = 0;   // so many more than else may be helpers
    std::uint32_t active_ POOL_GUARDED = 0;  // at the last share_out(): workers that do not wait
};

}  // namespace sidestep::detail
