// A mutex of one word, for objects of which there are a hundred thousand. Internal.
//
// Algorithm: Drepper, "Futexes Are Tricky", 2011 (mutex2).
// Threads:   of one process.
#pragma once

#include <atomic>
#include <cstdint>

namespace sidestep::inline v0::detail {

class WordMutex {
  public:
    void lock() noexcept {
        std::uint32_t was = kFree;
        // SYNC(word_mutex): acquire, pairs with unlock().
        if (!word_.compare_exchange_strong(was, kHeld, std::memory_order_acquire)) lock_slowly();
    }
    void unlock() noexcept {
        // SYNC(word_mutex): release, pairs with lock().
        if (word_.exchange(kFree, std::memory_order_release) == kAwaited) wake_one();
    }

  private:
    static constexpr std::uint32_t kFree = 0, kHeld = 1, kAwaited = 2;  // held, somebody may sleep

    void lock_slowly() noexcept;
    void wake_one() noexcept;

    std::atomic<std::uint32_t> word_{kFree};
};

}  // namespace sidestep::detail
