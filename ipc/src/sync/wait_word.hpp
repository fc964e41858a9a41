// Sleeping on a word that any number of threads of any processes share.
//
// EventCount (event_count.hpp) knows its participants; a WaitWord does not: bit 0 says that
// somebody may sleep, the rest counts notifications.
//
//     waiter                                      notifier
//     key = word.prepare()                        make the condition true
//     if (!condition) word.wait(key, deadline)    word.notify_one()
//
// W1 The waiter sets the bit before it checks the condition; the notifier makes the condition true
//    before it looks at the bit; both with a full fence between. So one of them sees the other.
// W2 Wake-ups are hints, and can be lost: the notifier may be killed before the system call, the
//    woken before it acts. So every sleep is bounded (BoundedSleep), and sleepers look again.
// W3 notify_one() clears the bit though others may sleep on. Who was woken sets it again
//    (prepare()), and passes the wake-up on if there may be more to have: the baton.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>

#include "sys/sys.hpp"

namespace sidestep::inline v0 {

// How long a sleeper sleeps before it looks again: 2 ms at first, then twice as long each time. So
// what a death delays is never delayed by more than as long again, and who waits for long costs
// next to nothing.
class BoundedSleep {
  public:
    static constexpr std::chrono::milliseconds kShortest{2}, kLongest{100};

    explicit BoundedSleep(const sys::Deadline& deadline,
                          std::chrono::milliseconds longest = kLongest)
        : deadline_(deadline), longest_(longest) {}
    // Begins where one that has slept `round` times would go on.
    BoundedSleep(const sys::Deadline& deadline, unsigned round) : BoundedSleep(deadline) {
        length_ = std::min(kShortest * (1 << std::min(round, 10u)), kLongest);
    }

    // When the next sleep ends.
    sys::Deadline next() {
        auto until = sys::Clock::now() + length_;
        length_ = std::min(2 * length_, longest_);
        return deadline_ && *deadline_ < until ? *deadline_ : until;
    }
    bool expired() const { return deadline_ && sys::Clock::now() >= *deadline_; }

  private:
    sys::Deadline deadline_;
    std::chrono::milliseconds length_ = kShortest, longest_;
};

class WaitWord {
  public:
    std::uint32_t prepare() noexcept {
        std::uint32_t key = word_.fetch_or(1) | 1;            // SYNC(W1): pairs with notify
        std::atomic_thread_fence(std::memory_order_seq_cst);  // before the condition is read
        return key;
    }
    sys::Wake wait(std::uint32_t key, const sys::Deadline& until) noexcept {
        return sys::futex_wait(word_, key, until);
    }
    void notify_one() noexcept { notify(1); }
    void notify_all() noexcept { notify(INT_MAX); }
    void notify(int count) noexcept {
        std::atomic_thread_fence(std::memory_order_seq_cst);  // SYNC(W1): pairs with prepare
        notify_fenced(count);
    }
    // For a caller that has just executed a full fence, or called fence_after_unlock().
    void notify_fenced(int count) noexcept {
        std::uint32_t seen = word_.load(std::memory_order_relaxed);
        if ((seen & 1) == 0) return;
        while (!word_.compare_exchange_weak(seen, (seen + 2) & ~1u))
            if ((seen & 1) == 0) return;  // another notifier was faster, and wakes
        sys::futex_wake(word_, count);
    }
    bool has_sleepers() const noexcept {  // relaxed: a hint
        return word_.load(std::memory_order_relaxed) & 1;
    }

  private:
    std::atomic<std::uint32_t> word_{0};
};

}  // namespace sidestep
