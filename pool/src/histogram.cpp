#include <sidestep/histogram.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace sidestep::inline v0 {
namespace {

std::chrono::nanoseconds as_time(std::uint64_t ns) {
    return std::chrono::nanoseconds(static_cast<std::int64_t>(ns));
}

}  // namespace

// Of the bucket behind the last one too: as late as can be said.
std::uint64_t Histogram::lower_bound(std::size_t bucket) noexcept {
    if (bucket < 4) return bucket;
    if (bucket >= kBuckets)
        return static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    std::size_t power = bucket / 4 + 1;
    return (4 + bucket % 4) << (power - 2);
}

Histogram& Histogram::operator+=(const Histogram& other) noexcept {
    for (std::size_t i = 0; i < kBuckets; ++i) counts_[i] += other.counts_[i];
    sum_ += other.sum_;
    max_ = std::max(max_, other.max_);
    return *this;
}

std::uint64_t Histogram::count() const noexcept {
    return std::accumulate(counts_.begin(), counts_.end(), std::uint64_t(0));
}

std::chrono::nanoseconds Histogram::mean() const noexcept {
    std::uint64_t n = count();
    return n == 0 ? as_time(0) : as_time(static_cast<std::uint64_t>(sum_ / static_cast<double>(n)));
}

std::chrono::nanoseconds Histogram::max() const noexcept { return as_time(max_); }

std::chrono::nanoseconds Histogram::quantile(double part) const {
    if (!(part >= 0 && part <= 1))
        throw std::invalid_argument(
            fmt::format("Histogram::quantile({}): a part of all is 0 to 1; 0.99 is the 99th "
                        "percentile",
                        part));
    double wanted = std::max(1.0, std::ceil(part * static_cast<double>(count())));
    double seen = 0;
    for (std::size_t i = 0; i < kBuckets; ++i) {
        seen += static_cast<double>(counts_[i]);
        if (seen < wanted) continue;
        std::uint64_t from = lower_bound(i), to = lower_bound(i + 1);
        return as_time(std::min(from + (to - from) / 2, max_));
    }
    return as_time(0);
}

std::vector<Histogram::Bucket> Histogram::buckets() const {
    std::vector<Bucket> list;
    for (std::size_t i = 0; i < kBuckets; ++i)
        if (counts_[i] > 0)
            list.push_back({as_time(lower_bound(i)), as_time(lower_bound(i + 1)), counts_[i]});
    return list;
}

}  // namespace sidestep
