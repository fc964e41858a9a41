// What futures and streams ask about their tasks, in whichever thread.
#pragma once

#include <functional>

#include <sidestep/detail/pool_task.hpp>

#include "dispatch/wait_room.hpp"
#include "life/pool_owner.hpp"
#include "policy/pool_rooms.hpp"
#include "policy/retry_desk.hpp"
#include "policy/stopper.hpp"

namespace sidestep::inline v0::detail {

// Threads: thread-safe. In a forked copy of the process nothing happens, and nobody waits.
class FutureDesk {
  public:
    struct Pool {  // all of it outlives this object
        const PoolOwner& owner;
        RetryDesk& retries;
        Stopper& stopper;
    };
    FutureDesk(const PoolRooms& rooms, const Pool& pool, WaitRoom& waiters)
        : rooms_(rooms), pool_(pool), waiters_(waiters) {}

    // Until ready(), which is called with the mutex held. False: the deadline came first.
    bool wait(const std::function<bool()>& ready, const Deadline& deadline) POOL_UNLOCKED;
    // Takes what has ended out of the lanes.
    void poll() POOL_UNLOCKED;
    void look_again() POOL_UNLOCKED;  // whoever waits
    bool running(PoolTask& task) POOL_UNLOCKED;
    bool cancel(PoolTask& task, bool running_too) POOL_UNLOCKED;
    // False: the task is done.
    bool add_listener(PoolTask& task, const std::function<void(TaskListeners&)>& add) POOL_UNLOCKED;
    // Of a chunk that runs, as far as is known.
    std::uint64_t finished_items(const PoolTask& task) POOL_UNLOCKED;
    // The next task of a sink, whose list this is; null: there is none. Throws std::logic_error in
    // a forked copy.
    PoolTaskRef take_next(PoolTask*& first, PoolTask*& last) POOL_UNLOCKED;
    // The sink goes away: its tasks complete without it.
    void forget(const TaskSink& sink, PoolTask*& first) noexcept POOL_UNLOCKED;

  private:
    void drain(Hold& hold) POOL_LOCKED;

    const PoolRooms& rooms_;
    const Pool pool_;
    WaitRoom& waiters_;
};

}  // namespace sidestep::detail
