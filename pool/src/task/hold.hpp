// A pool's mutex, held; and what has to wait until it is released.
#pragma once

#include <forward_list>
#include <memory>

#include "sync/pool_mutex.hpp"

namespace sidestep::inline v0::detail {

class PoolTask;

// Who sleeps, and is woken when there is something for them. No call waits, or takes a mutex of the
// pool's.
class Sleepers {
  public:
    virtual void wake_waiters() noexcept = 0;     // all threads that wait for results
    virtual void kick_supervisor() noexcept = 0;  // it goes through what is due
    // With the mutex held: what the workers read of it, and may have written over, is right again.
    virtual void say_who_attends() noexcept {}

  protected:
    ~Sleepers() = default;
};

// What a Hold is to drop later, and its place in that list: who will have something to drop makes
// this when memory may still be refused, and nothing has to be had with the mutex held. One, or
// none.
using Leftover = std::forward_list<std::shared_ptr<const void>>;

// Holds the mutex while it lives, but for the time between unlock() and lock(). What was noted for
// later is done each time that the mutex has been released: who was to be woken finds the mutex
// free, and to drop the last reference to a task frees shared memory, which takes the mutex.
// A function that takes a Hold is called with the mutex held.
class SIDESTEP_SCOPED_CAPABILITY Hold {
  public:
    Hold(PoolMutex& mutex, Sleepers& sleepers) SIDESTEP_ACQUIRE(pool_locked)
        : mutex_(&mutex), sleepers_(&sleepers) {
        mutex_->lock();
    }
    // Unchecked: whether the mutex is held now, the compiler knows at the call only.
    ~Hold() SIDESTEP_RELEASE() SIDESTEP_UNCHECKED {
        if (held_) mutex_->unlock();
        if (has_more()) follow_up();
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

    void unlock() SIDESTEP_RELEASE(pool_locked) {
        mutex_->unlock();
        held_ = false;
        if (has_more()) follow_up();
    }
    void lock() SIDESTEP_ACQUIRE(pool_locked) {
        mutex_->lock();
        held_ = true;
    }
    // Does what was noted, without the mutex meanwhile. False: nothing was noted, and the mutex was
    // not released.
    bool catch_up() POOL_LOCKED;

    // The pool's reference to a task that is done.
    void drop_later(PoolTask* task) noexcept POOL_LOCKED;
    void drop_later(Leftover object) noexcept POOL_LOCKED;
    void wake_waiters() noexcept POOL_LOCKED { wakes_ = true; }
    void kick_supervisor() noexcept POOL_LOCKED { kicks_ = true; }

  private:
    bool has_more() const { return first_ || wakes_ || kicks_ || !objects_.empty(); }
    void follow_up() noexcept;

    PoolMutex* const mutex_;
    Sleepers* const sleepers_;
    PoolTask* first_ = nullptr;  // a list, by TaskRecord::previous
    Leftover objects_;
    bool held_ = true;
    bool wakes_ = false;
    bool kicks_ = false;
};

}  // namespace sidestep::detail
