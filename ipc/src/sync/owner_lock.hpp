// The lock that a killed holder cannot keep: one word, which names the owner.
//
// L1 The word is 0 or the OwnerId of the process that holds the lock, with kUserBit if somebody may
//    wait. It changes by CAS, and by the holder's own release.
// L2 Who finds a dead owner takes its place by CAS: at most one of the finders succeeds, and learns
//    it (`recovered`). The living are never robbed, however long they take or are stopped.
// L3 After it slept, a thread acquires with kUserBit set, since others may sleep still.
// L4 A waiter sleeps for 5 ms at most before it asks the kernel about the owner.
// L5 A word that was written over names nobody who lives, and is taken as the dead's is. Who held
//    the lock finds at unlock() that it does so no more, and leaves it to its new holder.
//
// Process-shared; holds for threads of one process too (but any of them may unlock: who needs to
// know the thread, keeps it beside).
#pragma once

#include <atomic>
#include <cstdint>

#include "memory/participant.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {

class OwnerLock {
  public:
    // Takes the lock if it is free, or if its owner is dead (with `look`: that costs system calls).
    bool try_lock(bool look = true) noexcept {
        OwnerId free = 0, self = this_process();
        homes_.enter(self);
        // SYNC(lock): acquire pairs with unlock.
        return word_.compare_exchange_strong(free, self, std::memory_order_acquire,
                                             std::memory_order_relaxed) ||
               (look && rob(free));
    }
    // False: the deadline has passed.
    bool lock_until(const sys::Deadline& deadline) noexcept {
        return try_lock(false) || lock_slowly(deadline);
    }
    void lock() noexcept { (void)lock_until({}); }
    // Requires: held_by_this_process().
    void unlock() noexcept {
        if (recovered_.load(std::memory_order_relaxed) != 0)  // ours: we hold the lock
            recovered_.store(0, std::memory_order_relaxed);
        OwnerId self = this_process(), seen = word_.load(std::memory_order_relaxed);
        while ((seen & ~kUserBit) == self)
            if (word_.compare_exchange_weak(seen, 0, std::memory_order_seq_cst,  // SYNC(lock)
                                            std::memory_order_relaxed)) {
                if (seen & kUserBit) sys::futex_wake(sys::low_half(word_), 1);
                return;
            }
    }

    OwnerId owner() const noexcept {  // relaxed: a hint unless it is this process
        return word_.load(std::memory_order_relaxed) & ~kUserBit;
    }
    bool held_by_this_process() const noexcept { return owner() == this_process(); }
    // For the holder: the one before died holding the lock.
    bool recovered() const noexcept { return recovered_.load(std::memory_order_relaxed) != 0; }
    // Of another word beside this lock (Homes).
    bool is_alive(OwnerId owner) const noexcept { return homes_.is_alive(owner); }

  private:
    bool lock_slowly(const sys::Deadline& deadline) noexcept;
    bool rob(OwnerId seen) noexcept;
    std::atomic<OwnerId> word_{0};
    std::atomic<std::uint32_t> recovered_{0};  // written by the holder only
    Homes homes_;
};
static_assert(sizeof(OwnerLock) == 16 && std::atomic<OwnerId>::is_always_lock_free);

// A full fence for who has just called unlock(): on x86 its exchange was one, and another would
// cost a quarter of a queue's put().
inline void fence_after_unlock() noexcept {
#if defined(__x86_64__)
    std::atomic_signal_fence(std::memory_order_seq_cst);
#else
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

// Holds an OwnerLock for a scope.
class OwnerGuard {
  public:
    explicit OwnerGuard(OwnerLock& lock) noexcept : lock_(lock) { lock_.lock(); }
    OwnerGuard(const OwnerGuard&) = delete;
    OwnerGuard& operator=(const OwnerGuard&) = delete;
    ~OwnerGuard() { lock_.unlock(); }

  private:
    OwnerLock& lock_;
};

}  // namespace sidestep
