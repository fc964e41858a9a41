// How long a task takes, as far as is known.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace sidestep::inline v0::detail {

// A moving average over 16 tasks that follows a rise at once: a lane full of tasks that are longer
// than thought is worse than one that is too short.
// Threads: the caller serialises.
class MeanTime {
  public:
    std::uint64_t ns() const { return mean_; }
    // A task took so long. True: the mean has changed.
    bool learn(std::uint64_t ns) {
        ns = std::min(ns, kLongest);
        if (is_stray(ns)) return false;
        std::uint64_t mean = ns > 4 * mean_ ? (mean_ + ns) / 2 : (mean_ * 15 + ns) / 16;
        return std::exchange(mean_, std::max<std::uint64_t>(mean, 1)) != mean_;
    }

  private:
    static constexpr std::uint64_t kUnknown = 1'000'000;      // ns, before anything was measured
    static constexpr std::uint64_t kLongest = 1'000'000'000;  // ns, that are taken into account
    static constexpr std::uint64_t kStray = 16;               // times the mean
    static constexpr std::uint32_t kBetweenStrays = 64;       // tasks

    // One that is so much longer is likely to be a tiny task whose worker lost its CPU. If it is
    // not, the next one tells.
    bool is_stray(std::uint64_t ns) {
        if (ns <= kStray * mean_) {
            since_stray_ = std::min(since_stray_ + 1, kBetweenStrays);
            return false;
        }
        return std::exchange(since_stray_, 0) == kBetweenStrays;
    }

    std::uint64_t mean_ = kUnknown;
    std::uint32_t since_stray_ = 0;
};

}  // namespace sidestep::detail
