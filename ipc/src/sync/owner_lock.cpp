#include "sync/owner_lock.hpp"

#include "sync/spin.hpp"
#include "sync/wait_word.hpp"

namespace sidestep::inline v0 {
namespace {

using namespace std::chrono_literals;
constexpr auto kLongestLook = 5ms;  // L4: to look takes some 20 us
// What is done under these locks takes tens of nanoseconds: a holder that runs is soon through.
constexpr int kSpins = 64;

}  // namespace

bool OwnerLock::rob(OwnerId seen) noexcept {
    if (seen == 0 || homes_.is_alive(seen & ~kUserBit)) return false;
    OwnerId dead = seen & ~kUserBit;
    // This acquire pairs with no release of the dead holder's: it gave nothing up. That its plain
    // and relaxed stores to what the lock guards are seen here is the kernel's order only: each of
    // its threads has taken the kernel's locks to tell of its end after its last store, and
    // is_alive() has taken them after that, by the system call that learned of it. What the holder
    // was in the middle of is half changed all the same: see recovered(). Where the word was
    // written over (L5) there is no order at all, and nothing that the lock guards is certain.
    while (!word_.compare_exchange_weak(seen, this_process() | kUserBit, std::memory_order_acquire,
                                        std::memory_order_relaxed))
        if ((seen & ~kUserBit) != dead) return false;  // L2: someone else was faster
    recovered_.store(1, std::memory_order_relaxed);
    return true;
}

bool OwnerLock::lock_slowly(const sys::Deadline& deadline) noexcept {
    OwnerId self = this_process();
    for (int i = 0; i < kSpins && word_.load(std::memory_order_relaxed) != 0; ++i) cpu_relax();
    BoundedSleep sleep(deadline, kLongestLook);
    OwnerId waiters = 0;  // L3: kUserBit after the first sleep
    for (;;) {
        OwnerId seen = word_.load(std::memory_order_relaxed);
        if (seen == 0) {
            if (word_.compare_exchange_weak(seen, self | waiters, std::memory_order_acquire,
                                            std::memory_order_relaxed))
                return true;
            continue;
        }
        if (!(seen & kUserBit) &&
            !word_.compare_exchange_weak(seen, seen | kUserBit, std::memory_order_relaxed)) {
            if (sleep.expired()) return false;
            continue;
        }
        seen |= kUserBit;
        waiters = kUserBit;
        (void)sys::futex_wait(sys::low_half(word_), static_cast<std::uint32_t>(seen), sleep.next());
        OwnerId now = word_.load(std::memory_order_relaxed);
        if (now == seen) {  // it is time, or a signal came: that tells nothing of the owner
            if (rob(seen)) return true;
        } else {
            sleep = BoundedSleep(deadline, kLongestLook);  // owners come and go: look soon again
        }
        // Also if the word is another at each look: time is up all the same.
        if (now != 0 && sleep.expired()) return false;
    }
}

}  // namespace sidestep
