// A number in shared memory that may have any value: alone, nobody could tell that it was written
// over.
#pragma once

#include <atomic>
#include <cstdint>

namespace sidestep::inline v0 {

[[noreturn]] void throw_ring_damaged();

// The number, and its complement in the other half of one word. What a stray write leaves there,
// into one half or over both, is no such pair.
class CheckedNumber {
  public:
    // Throws DamagedError.
    std::uint32_t load() const { return checked(word_.load(std::memory_order_acquire)); }
    void store(std::uint32_t number) { word_.store(pair(number), std::memory_order_release); }
    // Instead of `seen`; if it is another one, that is `seen` now. Throws DamagedError.
    bool replace(std::uint32_t& seen, std::uint32_t number) {
        std::uint64_t word = pair(seen);
        if (word_.compare_exchange_strong(word, pair(number))) return true;
        seen = checked(word);
        return false;
    }

  private:
    static constexpr std::uint64_t pair(std::uint32_t number) {
        return std::uint64_t(~number) << 32 | number;
    }
    static std::uint32_t checked(std::uint64_t word) {
        auto number = static_cast<std::uint32_t>(word);
        if (word != pair(number)) throw_ring_damaged();
        return number;
    }
    std::atomic<std::uint64_t> word_{pair(0)};
};

}  // namespace sidestep
