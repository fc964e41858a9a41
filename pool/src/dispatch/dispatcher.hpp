// Which lane gets a task, and when: where it will begin soonest; and back again when another lane
// is free sooner after all.
#pragma once

#include <cstdint>
#include <vector>

#include <sidestep/detail/pool_task.hpp>

#include "dispatch/backlog.hpp"
#include "dispatch/elsewhere.hpp"
#include "dispatch/look_pace.hpp"
#include "dispatch/mean_time.hpp"
#include "lanes/lane.hpp"
#include "sync/supervisor_role.hpp"
#include "task/hold.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

// Knows of a lane what lane.hpp says.
class Dispatcher {
  public:
    struct Machine {  // all of it outlives this object
        const SpinPolicy& spin;
        const ControlPage& page;
        const std::uint64_t& wake_ns;  // what it costs to wake a worker
    };

    // `lanes`: how many there will be at first. gate: see Backlog.
    Dispatcher(std::uint32_t lanes, const Machine& machine, LookPace& pace,
               TokenGate* gate = nullptr);

    // Strong guarantee. The destructor uses no lane.
    void add(Lane& lane) POOL_LOCKED { lanes_.push_back(&lane); }
    const std::vector<Lane*>& lanes() const POOL_LOCKED { return lanes_; }
    // Unchecked: lanes are added in the supervisor's thread only. (What of a lane it may read
    // without the mutex says the lane.)
    const std::vector<Lane*>& own_lanes() const SUPERVISOR_ONLY SIDESTEP_UNCHECKED {
        return lanes_;
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
    // Gives lanes what waits, as much as they should hold.
    void refill(Hold& hold) POOL_LOCKED;
    // Gives what waits behind others to lanes that have nothing to do.
    void rebalance(bool ending, Hold& hold) POOL_LOCKED;
    // What waits behind the front of a lane waits for any again. (Then refill().)
    void take_back_waiting(Lane& lane, Hold& hold) POOL_LOCKED;
    // Nobody is idle, but somebody will be before the lanes that are stuck: it is the turn of what
    // waits there, ahead of all that was submitted later. Of another host, if somebody is idle.
    void take_back_stuck(Hold& hold) POOL_LOCKED;
    // Takes what has ended; of all lanes, or of the one that was used last.
    bool drain(bool ending, Hold& hold) POOL_LOCKED;
    bool drain_last_used(Hold& hold) POOL_LOCKED { return lanes_[last_used_]->drain(hold); }

    // A task took so long.
    void learn(std::uint64_t ns) POOL_LOCKED;
    std::uint64_t task_ns() const POOL_LOCKED { return mean_.ns(); }
    Backlog& backlog() POOL_LOCKED { return backlog_; }
    // All tasks that wait or are in lanes.
    template <class F>
    void for_each_task(F f) POOL_LOCKED {
        backlog_.for_each(f);
        for (const Lane* lane : lanes_) {
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
    Lane* pick() POOL_LOCKED;
    bool crowded() const POOL_LOCKED;
    std::uint64_t cost(const Lane& lane) const POOL_LOCKED;
    bool is_idle(const Lane& lane) const POOL_LOCKED {
        return lane.load.in_flight == 0 && lane.load.works && !lane.load.unresponsive &&
               lane.has_room(depth_);
    }
    Lane* oldest_queue() POOL_LOCKED;
    bool is_held(std::uint32_t lane) POOL_LOCKED;
    void look_for_held_keys() POOL_LOCKED;

    const Machine machine_;
    LookPace& pace_;
    std::vector<Lane*> lanes_ POOL_GUARDED;  // by number
    Elsewhere* elsewhere_ POOL_GUARDED = nullptr;
    Backlog backlog_ POOL_GUARDED;
    std::uint32_t last_used_ POOL_GUARDED = 0;  // the lane that was chosen last
    bool gathered_ POOL_GUARDED = false;        // some lane is to be flushed
    MeanTime mean_ POOL_GUARDED;                // of a task
    std::uint64_t depth_ POOL_GUARDED;          // so many tasks a lane holds at most, with that
};

}  // namespace sidestep::detail
