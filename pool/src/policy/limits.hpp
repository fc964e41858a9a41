// Timeouts and memory limits of tasks that run; and when the supervisor has to look at them, at
// what is being stopped, and at what pauses.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include <sidestep/detail/pool_task.hpp>

#include "lanes/lane.hpp"
#include "policy/pool_rooms.hpp"
#include "policy/retry_desk.hpp"
#include "policy/stopper.hpp"
#include "sync/supervisor_role.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

class Limits {
  public:
    using Time = sys::Clock::time_point;

    Limits(const PoolRooms& rooms, RetryDesk& retries, Stopper& stopper)
        : rooms_(rooms), retries_(retries), stopper_(stopper) {}

    // A lane has been given the task: makes the supervisor look before its deadline.
    void watch(const PoolTask& task, Hold& hold) POOL_LOCKED;
    // Does what is due, and finds out when to look again.
    void enforce(Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    // Looks at the memory of what enforce() has found to run. That is read under a lock of the
    // worker's own, which the worker may hold for long: so without the mutex.
    void enforce_memory() SUPERVISOR_ONLY POOL_UNLOCKED;

  private:
    void enforce_in(Lane& lane, Time now, Hold& hold) POOL_LOCKED;
    void look_within(std::chrono::nanoseconds pause) POOL_LOCKED;
    void ask_in_time(Lane& lane, const PoolTask& task, std::chrono::nanoseconds ran) POOL_LOCKED;
    void time_out(Lane& lane, const PoolTask& task, std::uint64_t item, Hold& hold) POOL_LOCKED;
    void stop_too_large(Lane& lane, const MemoryLook& look, std::size_t used,
                        Hold& hold) POOL_LOCKED;

    const PoolRooms rooms_;
    RetryDesk& retries_;
    Stopper& stopper_;
    // How soon the supervisor looks again.
    std::chrono::nanoseconds pause_ POOL_GUARDED = kNoTimeout;
    bool any_in_lanes_ POOL_GUARDED = false;  // tasks with a limit
};

}  // namespace sidestep::detail
