// The tasks that took longest, for pool.stats().
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "insight/task_names.hpp"

namespace sidestep::inline v0::detail {

// Threads: the caller serialises.
class SlowTasks {
  public:
    static constexpr std::size_t kMost = 10;
    SlowTasks() { entries_.reserve(kMost + 1); }
    struct Entry {
        std::uint64_t number;
        std::uint32_t worker;
        std::chrono::nanoseconds duration;
        TaskLabel label;
    };

    // A task that ran no longer than that is not among the slowest.
    std::chrono::nanoseconds least() const { return least_; }
    void add(const Entry& entry) noexcept;
    const std::vector<Entry>& entries() const { return entries_; }  // the slowest first

  private:
    std::vector<Entry> entries_;
    std::chrono::nanoseconds least_{-1};
};

}  // namespace sidestep::detail
