// Where tasks may run but in lanes: on other hosts. All that a dispatcher and the policies know of
// it.
#pragma once

#include <cstdint>
#include <functional>

#include <sidestep/detail/pool_task.hpp>

#include "task/hold.hpp"

namespace sidestep::inline v0::detail {

// What has a task from here has it until it tells the pool what became of it: its place is
// PoolTask::Place::elsewhere.
class Elsewhere {
  public:
    // A task of this mean duration would begin there before so many nanoseconds have passed.
    virtual bool is_sooner(std::uint64_t ns, std::uint64_t task_ns) const POOL_LOCKED = 0;
    // True: it is there now, where it begins soonest. False: there is no memory to remember that.
    virtual bool take(PoolTask& task, std::uint64_t task_ns) noexcept POOL_LOCKED = 0;
    // True: the task's key is a worker's there, and it is there now.
    virtual bool take_by_key(PoolTask& task) noexcept POOL_LOCKED = 0;
    // Of a host that is stuck, what it has not begun waits here again, if somebody is idle: here,
    // or on another host.
    virtual void take_back_stuck(bool idle_here) noexcept POOL_LOCKED = 0;
    // running_too: else only if it was not begun, which is found out there. True: it is cancelled.
    virtual bool cancel(PoolTask& task, bool running_too, Hold& hold) POOL_LOCKED = 0;
    virtual void cancel_waiting() POOL_LOCKED = 0;
    // Its workers are to leave when they have done all; or to end now.
    virtual void end(bool now) noexcept POOL_LOCKED = 0;
    virtual bool has_ended() const POOL_LOCKED = 0;
    virtual void for_each_task(const std::function<void(PoolTask*)>& f) const POOL_LOCKED = 0;

  protected:
    ~Elsewhere() = default;
};

}  // namespace sidestep::detail
