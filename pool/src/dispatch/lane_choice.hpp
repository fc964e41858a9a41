// Which lane: where a task begins soonest, and not after younger ones; and where the oldest waits.
#pragma once

#include <cstdint>
#include <vector>

#include <sidestep/detail/pool_task.hpp>

#include "dispatch/backlog.hpp"
#include "dispatch/mean_time.hpp"
#include "lanes/lane.hpp"
#include "task/hold.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

// Looks at lanes, and changes none.
// Threads: the caller serialises, by the pool's mutex.
class LaneChoice {
  public:
    struct Machine {  // all of it outlives this object
        const SpinPolicy& spin;
        const ControlPage& page;
        const std::uint64_t& wake_ns;  // what it costs to wake a worker
    };

    // The backlog outlives this object.
    LaneChoice(const Machine& machine, const Backlog& backlog);

    void add(Lane& lane) { lanes_.push_back(&lane); }  // strong guarantee
    const std::vector<Lane*>& lanes() const { return lanes_; }
    Lane& last_used() const { return *lanes_[last_used_]; }

    // A task took so long.
    void learn(std::uint64_t ns);
    std::uint64_t task_ns() const { return mean_.ns(); }

    // It takes a task, and holds less than enough.
    bool has_room(const Lane& lane) const { return lane.has_room(depth_); }
    // It has nothing, and will begin what it gets.
    bool is_idle(const Lane& lane) const {
        return lane.load.in_flight == 0 && lane.load.works && !lane.load.unresponsive &&
               has_room(lane);
    }
    std::uint64_t count_idle() const;
    Lane* find_idle() const;   // null: none
    Lane* find_empty() const;  // the same, also one that is unresponsive
    // Nanoseconds until a new task would begin there.
    std::uint64_t cost(const Lane& lane) const;
    // The lane that would begin the task soonest, which any may do, or null if all hold enough.
    Lane* pick(const PoolTask& task) POOL_LOCKED;
    // A lane had the task, and has not begun it: no lane gets it that holds younger ones.
    void note_handed_back(const PoolTask& task);
    // There are none of those.
    void all_given() { handed_back_ = 0; }

    // Of those that wait in the lane, the oldest that any may do. Null: there is none.
    const PoolTask* first_waiting(Lane& lane) const POOL_LOCKED;
    // Of those behind whose front enough waits to wake another worker for it, the lane where the
    // oldest task waits that any may do. looks: only where the front has not moved for so many.
    Lane* oldest_queue(std::uint32_t looks) const POOL_LOCKED;

  private:
    bool crowded() const;
    bool takes(const Lane& lane, const PoolTask& task) const POOL_LOCKED {
        return has_room(lane) && (task.serial >= handed_back_ || !holds_younger(lane, task));
    }
    bool holds_younger(const Lane& lane, const PoolTask& task) const POOL_LOCKED;

    const Machine machine_;
    const Backlog& backlog_;
    std::vector<Lane*> lanes_;     // by number
    std::uint32_t last_used_ = 0;  // the lane that was chosen last
    MeanTime mean_;                // of a task
    std::uint64_t depth_;          // so many tasks a lane holds at most, with that
    // Tasks with a lower number than this may have been handed back, and wait for a lane.
    std::uint64_t handed_back_ = 0;
};

}  // namespace sidestep::detail
