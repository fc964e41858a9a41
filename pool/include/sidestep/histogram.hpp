// Histogram: how durations are distributed, in constant memory.
//
//     stats.run.quantile(0.99);     // 99 of 100 tasks ran no longer than that
//
// Buckets are log-linear: four for each power of two nanoseconds, so that a bucket's bounds are at
// most a quarter apart, and all durations have one.
//
// Ownership: a value, 2 KiB. Threads: single-owner.
// Errors:    std::invalid_argument for a quantile that is none.
#pragma once

#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace sidestep::inline v0 {

class Histogram {
  public:
    struct Bucket {
        std::chrono::nanoseconds from;  // inclusive
        std::chrono::nanoseconds to;    // exclusive
        std::uint64_t count;
    };

    // A negative duration counts as 0.
    void add(std::chrono::nanoseconds duration) noexcept {
        auto ns = static_cast<std::uint64_t>(duration.count() > 0 ? duration.count() : 0);
        ++counts_[bucket_of(ns)];
        sum_ += static_cast<double>(ns);
        if (ns > max_) max_ = ns;
    }

    // Adds all that another one has.
    Histogram& operator+=(const Histogram& other) noexcept;

    // How many durations there are; their mean and the longest, exact; 0 if there are none.
    std::uint64_t count() const noexcept;
    std::chrono::nanoseconds mean() const noexcept;
    std::chrono::nanoseconds max() const noexcept;

    // The duration that this part of all, 0 to 1, does not exceed: 0.5 is the median. Within an
    // eighth of what is true. 0 if there are none. Throws std::invalid_argument for other parts.
    std::chrono::nanoseconds quantile(double part) const;

    // Those that are not empty, the shortest first.
    std::vector<Bucket> buckets() const;

  private:
    static constexpr std::size_t kBuckets = 4 * 62;  // 63 bits of nanoseconds

    static std::size_t bucket_of(std::uint64_t ns) noexcept {
        if (ns < 4) return static_cast<std::size_t>(ns);
        auto power = static_cast<std::size_t>(std::bit_width(ns)) - 1;  // 2 to 62
        return 4 * (power - 1) + ((ns >> (power - 2)) & 3);
    }
    static std::uint64_t lower_bound(std::size_t bucket) noexcept;

    std::array<std::uint64_t, kBuckets> counts_{};
    double sum_ = 0;
    std::uint64_t max_ = 0;
};

}  // namespace sidestep
