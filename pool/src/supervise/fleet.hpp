// How many workers there are: starting, replacing, recycling and resizing.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <vector>

#include "nested/relief.hpp"
#include "policy/pool_end.hpp"
#include "policy/pool_rooms.hpp"
#include "supervise/event_loop.hpp"
#include "supervise/worker.hpp"
#include "supervise/worker_deaths.hpp"
#include "supervise/worker_starter.hpp"
#include "supervise/worker_talk.hpp"
#include "sync/supervisor_role.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

class Fleet {
  public:
    struct Pool {  // all of it outlives this object
        Workers& workers POOL_GUARDED;
        LaneEvents& events;
        ControlPage& page;
        PoolEnd& end;
        EventLoop& loop;
        WorkerTalk& talk;
        WorkerDeaths& deaths;
        WorkerStarter& starter;
        Relief& relief;
    };
    Fleet(const PoolRooms& rooms, const Pool& pool);

    // The first ones. Throws what went wrong; then discard_all().
    void start() SUPERVISOR_ONLY POOL_UNLOCKED;
    // They end, as the pool cannot be started.
    void discard_all() noexcept SUPERVISOR_ONLY POOL_UNLOCKED;
    // What is due: others are started in the place of those that are gone, and some are ended.
    void follow_target() SUPERVISOR_ONLY POOL_UNLOCKED;
    void respawn_due() SUPERVISOR_ONLY POOL_UNLOCKED;
    void end_overdue(Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    void measure_growth() SUPERVISOR_ONLY POOL_UNLOCKED;
    void retire_old(sys::Clock::time_point now, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    void sleep_if_idle(sys::Clock::time_point now, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    sys::Deadline next_due() const POOL_LOCKED;
    // Each is looked at, since the kernel tells of no events.
    template <class Attempt>
    void look_at_all(Attempt attempt) SUPERVISOR_ONLY {
        for (Worker& worker : own_workers()) {
            attempt([&]() SUPERVISOR_ONLY { pool_.talk.look(worker); });
            attempt([&]() SUPERVISOR_ONLY { pool_.deaths.look(worker); });
        }
    }

    // So many are wanted.
    void resize(std::uint32_t target, Hold& hold) POOL_LOCKED;
    std::uint32_t target() const { return target_.load(std::memory_order_relaxed); }
    // There is a task again.
    void wake_if_asleep(Hold& hold) POOL_LOCKED {
        if (asleep_) wake(hold);
    }
    void ask_all_to_leave(Hold& hold) POOL_LOCKED;
    bool all_gone() const POOL_LOCKED;
    std::vector<int> pids() const POOL_LOCKED;

  private:
    // Unchecked: workers come in the supervisor's thread only, and what it reads of them without
    // the mutex changes there only.
    Workers& own_workers() SUPERVISOR_ONLY SIDESTEP_UNCHECKED { return pool_.workers; }
    void add_worker() POOL_LOCKED;
    void launch(Worker& worker) SUPERVISOR_ONLY POOL_UNLOCKED;
    void watch(Worker& worker, const WorkerProcess& process) SUPERVISOR_ONLY;
    void unwatch(const WorkerProcess& process) noexcept SUPERVISOR_ONLY;
    void adopt(Worker& worker, RingLane::Parts parts, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    void note_failed_launch(Worker& worker,
                            const std::exception_ptr& error) noexcept SUPERVISOR_ONLY POOL_UNLOCKED;
    // When it is to be ready by; nothing: it is, or has no limit.
    sys::Deadline ready_by(const Worker& worker) const POOL_LOCKED;
    void break_down_for(const Worker& worker, Hold& hold) POOL_LOCKED;
    bool is_wanted(const Worker& worker) const POOL_LOCKED;
    void wake(Hold& hold) POOL_LOCKED;

    const PoolRooms rooms_;
    const Pool pool_;
    std::atomic<std::uint32_t> target_;        // relaxed: how many are wanted
    bool asleep_ POOL_GUARDED = false;         // since there was nothing to do
    std::uint32_t followed_ POOL_GUARDED = 0;  // so many were wanted, helpers too, at the last look
    // Since when no worker can be started, as something is used up, and since when none is left.
    sys::Deadline shortage_since_ SUPERVISOR_OWNED;
    sys::Deadline nobody_since_ SUPERVISOR_OWNED;
    sys::Clock::time_point growth_look_ SUPERVISOR_OWNED{};  // when measure_growth() is next due
};

}  // namespace sidestep::detail
