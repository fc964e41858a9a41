// Which lane gets a task, and when: where it will begin soonest; and back again when another lane
// is free sooner after all.
#pragma once

#include <cstdint>
#include <vector>

#include <sidestep/detail/pool_task.hpp>

#include "dispatch/backlog.hpp"
#include "dispatch/elsewhere.hpp"
#include "dispatch/lane_choice.hpp"
#include "dispatch/look_pace.hpp"
#include "lanes/lane.hpp"
#include "sync/supervisor_role.hpp"
#include "task/hold.hpp"

namespace sidestep::inline v0::detail {

// Knows of a lane what lane.hpp says.
class Dispatcher {
  public:
    using Machine = LaneChoice::Machine;

    // `lanes`: how many there will be at first. gate: see Backlog.
    Dispatcher(std::uint32_t lanes, const Machine& machine, LookPace& pace,
               TokenGate* gate = nullptr);

    // Strong guarantee. The destructor uses no lane.
    void add(Lane& lane) POOL_LOCKED { choice_.add(lane); }
    const std::vector<Lane*>& lanes() const POOL_LOCKED { return choice_.lanes(); }
    // Unchecked: lanes are added in the supervisor's thread only. (What of a lane it may read
    // without the mutex says the lane.)
    const std::vector<Lane*>& own_lanes() const SUPERVISOR_ONLY SIDESTEP_UNCHECKED {
        return choice_.lanes();
    }

    // Null: there is nothing but lanes. It outlives this object.
    void set_elsewhere(Elsewhere* elsewhere) POOL_LOCKED { elsewhere_ = elsewhere; }
    Elsewhere* elsewhere() const POOL_LOCKED { return elsewhere_; }

    // A new task, behind its equals; it is in no other place.
    void place(PoolTask* task, Hold& hold) POOL_LOCKED;
    // A new task that waited for others: it is older than much of what waits. refill() is called.
    void place_late(PoolTask* task, Hold& hold) POOL_LOCKED;
    // One that is run again: before all that was submitted later. refill() begins it.
    void wait_again(PoolTask* task, Hold& hold) POOL_LOCKED;
    // One that a lane had, and has not begun. refill() gives it to another one.
    void handed_back(PoolTask& task) noexcept POOL_LOCKED;
    // Gives lanes what waits, as much as they should hold.
    void refill(Hold& hold) POOL_LOCKED;
    // Gives what waits behind others to lanes that have nothing to do.
    void rebalance(bool ending, Hold& hold) POOL_LOCKED;
    // A lane whose worker has just come begins with the oldest task, wherever that waits, unless it
    // was given one before. (Then rebalance() and refill().)
    void welcome(Lane& lane, Hold& hold) POOL_LOCKED;
    // After a look at the lanes, and rebalance(): where fronts have not moved for long, nothing
    // that waits there is overtaken from now on; a task of another host is taken back, if somebody
    // is idle. (Then refill().)
    void look_for_stuck(Hold& hold) POOL_LOCKED;
    // Takes what has ended; of all lanes, or of the one that was used last.
    bool drain(bool ending, Hold& hold) POOL_LOCKED;
    bool drain_last_used(Hold& hold) POOL_LOCKED { return choice_.last_used().drain(hold); }

    // A task took so long.
    void learn(std::uint64_t ns) POOL_LOCKED { choice_.learn(ns); }
    std::uint64_t task_ns() const POOL_LOCKED { return choice_.task_ns(); }
    Backlog& backlog() POOL_LOCKED { return backlog_; }
    // All tasks that wait or are in lanes.
    template <class F>
    void for_each_task(F f) POOL_LOCKED {
        backlog_.for_each(f);
        for (const Lane* lane : choice_.lanes()) {
            for (std::uint32_t i = 0; i < lane->load.in_flight; ++i)
                if (PoolTask* task = lane->task_at(i)) f(task);
            if (lane->stopping && lane->stopping->task) f(lane->stopping->task);
        }
        if (elsewhere_) elsewhere_->for_each_task(f);
    }

  private:
    bool overtake(const PoolTask& task, Hold& hold) POOL_LOCKED;
    bool give(Lane& lane, PoolTask* task, Hold& hold) POOL_LOCKED;
    void fill(Hold& hold) POOL_LOCKED;
    bool goes_elsewhere(PoolTask* task, const Lane* lane, Hold& hold) POOL_LOCKED;
    void flush(Hold& hold) POOL_LOCKED;
    void take_back_waiting(Lane& lane, Hold& hold) POOL_LOCKED;
    void fetch_older(Hold& hold) POOL_LOCKED;
    bool overtakes_stuck(const PoolTask& task) POOL_LOCKED;
    bool is_held(std::uint32_t lane) POOL_LOCKED;
    void look_for_held_keys() POOL_LOCKED;

    LookPace& pace_;
    Elsewhere* elsewhere_ POOL_GUARDED = nullptr;
    Backlog backlog_ POOL_GUARDED;
    LaneChoice choice_ POOL_GUARDED;
    bool gathered_ POOL_GUARDED = false;   // some lane is to be flushed
    bool has_stuck_ POOL_GUARDED = false;  // tasks wait in a lane that has been stuck for long
};

}  // namespace sidestep::detail
