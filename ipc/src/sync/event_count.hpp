// Sleeping until something happened, across processes: an event count.
//
// After folly's EventCount, with two changes that kill -9 asks for: who sleeps is a bitmap (each
// participant sets and clears its own bit, and the dead's is cleared for it), since a counter would
// leak; and each sleep may end on a second word too, the death epoch.
//
//     waiter                                   notifier
//     key = event.prepare(bit)                 make the condition true
//     if (condition) { event.cancel(bit); }    event.notify_all()
//     else { event.wait(key, ...); event.cancel(bit); }
//
// E1 The waiter sets its bit before it checks the condition; the notifier makes the condition true
//    before it looks at the bits; both with a full fence between. So one of them sees the other.
// E2 A notifier clears the bits it found, so that the next one pays no system call. If it is killed
//    before the futex wake, the sleeper is woken by the death epoch, or by its own deadline: every
//    sleep is at most kLongestSleep (I6).
// E3 Wake-ups are hints: the waiter checks again.
// E4 The waiter reads its key before it sets its bit. So whoever clears the bit changes the key
//    afterwards, and the sleep ends. (The other way round, a notifier that is late with an older
//    event could clear the bit just before the key is read: then nobody knows of the sleeper.)
#pragma once

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>

#include "sys/sys.hpp"

namespace sidestep::inline v0 {

inline constexpr std::size_t kCacheLine = 128;  // two lines: x86 fetches them in pairs
inline constexpr std::chrono::milliseconds kLongestSleep{1000};

// Bumped, and everybody on it woken, whenever a participant has died.
struct DeathEpoch {
    std::atomic<std::uint32_t> value{0};

    void announce() noexcept {
        value.fetch_add(1);
        sys::futex_wake(value, INT_MAX);
    }
};

class EventCount {
  public:
    using Key = std::uint32_t;
    static constexpr unsigned kMaxParticipants = 64;

    Key prepare(unsigned participant) noexcept {
        Key key = sequence_.load();            // E4: before the bit
        sleepers_.fetch_or(bit(participant));  // SYNC(E1): seq_cst, pairs with notify_all
        std::atomic_thread_fence(std::memory_order_seq_cst);
        return key;
    }
    void cancel(unsigned participant) noexcept {
        // Relaxed: a bit that is seen set too long costs a system call, nothing else.
        if (sleepers_.load(std::memory_order_relaxed) & bit(participant))
            sleepers_.fetch_and(~bit(participant), std::memory_order_relaxed);
    }
    // Sleeps until notified, the deadline, or kLongestSleep.
    void wait(Key key, sys::Deadline deadline) noexcept {
        sys::futex_wait(sequence_, key, capped(deadline));
    }
    // The same, and until someone dies.
    void wait(Key key, const DeathEpoch& epoch, std::uint32_t epoch_key,
              sys::Deadline deadline) noexcept {
        sys::futex_wait2(sequence_, key, epoch.value, epoch_key, capped(deadline));
    }
    void notify_all() noexcept {
        std::atomic_thread_fence(std::memory_order_seq_cst);  // SYNC(E1): pairs with prepare
        notify_all_fenced();
    }
    // For a caller that has just executed a seq_cst fence.
    void notify_all_fenced() noexcept {
        if (sleepers_.load(std::memory_order_relaxed) == 0) return;
        if (sleepers_.exchange(0) == 0) return;
        sequence_.fetch_add(1);
        sys::futex_wake(sequence_, INT_MAX);
    }
    // When a notifier may have been killed between clearing the bits and waking.
    void wake_all() noexcept {
        sequence_.fetch_add(1);
        sys::futex_wake(sequence_, INT_MAX);
    }
    bool has_sleepers() const noexcept {  // relaxed: a hint
        return sleepers_.load(std::memory_order_relaxed) != 0;
    }

  private:
    static std::uint64_t bit(unsigned participant) { return std::uint64_t(1) << participant; }
    static sys::Deadline capped(sys::Deadline deadline) {
        auto cap = sys::Clock::now() + kLongestSleep;
        return deadline && *deadline < cap ? *deadline : cap;
    }

    std::atomic<std::uint32_t> sequence_{0};
    std::atomic<std::uint64_t> sleepers_{0};
};
static_assert(sizeof(EventCount) == 16 && std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace sidestep
