// How long the last jobs of a ThreadPool took.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>

#include "worker/worker_meter.hpp"

namespace sidestep::inline v0::detail {

// Threads: the caller serialises note(); all_tiny() may be called by anybody.
class JobPace {
  public:
    // The last jobs were tiny; more so than waking somebody for each costs.
    bool all_tiny() const { return all_tiny_.load(std::memory_order_relaxed); }  // a hint
    // So many jobs have ended, which took that long together.
    void note(std::size_t jobs, std::chrono::nanoseconds took) noexcept {
        const bool are_tiny = took < kTiny * static_cast<long>(jobs);
        tiny_in_a_row_ = are_tiny ? std::min(tiny_in_a_row_ + jobs, kManyTiny) : 0;
        all_tiny_.store(tiny_in_a_row_ == kManyTiny, std::memory_order_relaxed);
    }

  private:
    // So many tiny jobs one after the other, and all are taken for tiny.
    static constexpr std::size_t kManyTiny = 64;
    static constexpr std::chrono::nanoseconds kTiny{WorkerMeter::kTinyTaskNs};

    std::atomic<bool> all_tiny_{false};
    std::size_t tiny_in_a_row_ = 0;  // jobs
};

}  // namespace sidestep::detail
