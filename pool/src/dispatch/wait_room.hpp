// Who waits for results, and who leads: the first thread that waits looks at the rings by itself,
// spinning and then sleeping on the pool's bell; the others, its followers, sleep until it has
// something for them.
//
// (Leader/followers: Schmidt et al., "Leader/Followers", PLoP 2000.)
#pragma once

#include <functional>

#include <sidestep/detail/task_state.hpp>

#include "task/hold.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

// Threads: thread-safe.
class WaitRoom {
  public:
    // Takes results out of the rings. True: something was completed.
    using Drain = std::function<bool(Hold&)>;

    // The page is shared with the workers, which ring its bell. All but `drain` outlive this
    // object.
    WaitRoom(PoolMutex& mutex, Sleepers& sleepers, ControlPage& page, const SpinPolicy& spin,
             Drain drain);

    // Until ready(), which is called with the mutex held. False: the deadline came first.
    bool wait(const std::function<bool()>& ready, const Deadline& deadline) POOL_UNLOCKED;
    bool is_empty() const POOL_LOCKED { return !leader_ && followers_ == 0; }
    unsigned followers() const POOL_LOCKED { return followers_; }
    void wake_all() noexcept;  // with or without the mutex
    // In the page, which workers may have written over: does somebody lead? Before a look at the
    // rings, for what was completed while that was wrong.
    void say_who_attends() noexcept POOL_LOCKED;

  private:
    void lead(Hold& hold, const std::function<bool()>& ready, const Deadline& deadline) POOL_LOCKED;

    PoolMutex& mutex_;
    Sleepers& sleepers_;
    ControlPage& page_;
    const SpinPolicy& spin_;
    const Drain drain_;
    PoolCondition changed_;  // followers sleep here
    bool leader_ POOL_GUARDED = false;
    unsigned followers_ POOL_GUARDED = 0;
};

}  // namespace sidestep::detail
