// The mutex of a pool, with the rules that clang++ keeps about it (thread_safety.hpp).
//
// One name, pool_locked, stands for "the mutex of the pool at hand is held", whichever class has
// that mutex: so a class that is a part of a pool can ask for it without knowing the pool. (That it
// is the mutex of this pool, and not of another one, is not checked.)
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "sync/thread_safety.hpp"

namespace sidestep::inline v0::detail {

class SIDESTEP_CAPABILITY("mutex") PoolLocked {};
inline constexpr PoolLocked pool_locked;

// Of a function, behind its parameters: it is called with the pool's mutex held; or without, since
// it takes it. Of a member: it is read and written with the mutex held.
#define POOL_LOCKED SIDESTEP_REQUIRES(pool_locked)
#define POOL_UNLOCKED SIDESTEP_EXCLUDES(pool_locked)
#define POOL_GUARDED SIDESTEP_GUARDED_BY(pool_locked)

class PoolMutex {
  public:
    // Unchecked: the standard's mutex, which they stand on, tells the compiler nothing.
    void lock() SIDESTEP_ACQUIRE(pool_locked) SIDESTEP_UNCHECKED { mutex_.lock(); }
    void unlock() SIDESTEP_RELEASE(pool_locked) SIDESTEP_UNCHECKED { mutex_.unlock(); }

  private:
    friend class PoolCondition;
    std::mutex mutex_;
};

// Holds the mutex while it lives, but for the time between unlock() and lock().
class SIDESTEP_SCOPED_CAPABILITY PoolLock {
  public:
    explicit PoolLock(PoolMutex& mutex) SIDESTEP_ACQUIRE(pool_locked) : mutex_(&mutex) {
        mutex_->lock();
    }
    // Unchecked: whether it is held now, the compiler knows at the call only.
    ~PoolLock() SIDESTEP_RELEASE() SIDESTEP_UNCHECKED {
        if (held_) mutex_->unlock();
    }
    PoolLock(const PoolLock&) = delete;
    PoolLock& operator=(const PoolLock&) = delete;
    void unlock() SIDESTEP_RELEASE(pool_locked) {
        mutex_->unlock();
        held_ = false;
    }
    void lock() SIDESTEP_ACQUIRE(pool_locked) {
        mutex_->lock();
        held_ = true;
    }

  private:
    PoolMutex* const mutex_;
    bool held_ = true;
};

// A condition variable for that mutex. Its waits may end for no reason: the caller looks again.
class PoolCondition {
  public:
    void wait(PoolMutex& mutex) POOL_LOCKED {
        std::unique_lock lock(mutex.mutex_, std::adopt_lock);
        condition_.wait(lock);
        (void)lock.release();  // it is the caller's, as it was
    }
    void wait_until(PoolMutex& mutex, std::chrono::steady_clock::time_point end) POOL_LOCKED {
        std::unique_lock lock(mutex.mutex_, std::adopt_lock);
        condition_.wait_until(lock, end);
        (void)lock.release();
    }
    void notify_one() noexcept { condition_.notify_one(); }
    void notify_all() noexcept { condition_.notify_all(); }

  private:
    std::condition_variable condition_;
};

}  // namespace sidestep::detail
