// A measured amount of work: a chain of multiplications that nothing can shorten.
#pragma once

#include <cstdint>

#include "common.hpp"

namespace bench {

inline std::uint64_t churn(std::uint64_t steps) {
    std::uint64_t value = steps;
    for (; steps > 0; --steps) value = value * 6364136223846793005u + 1442695040888963407u;
    benchmark::DoNotOptimize(value);
    return value;
}

// The steps of churn() that take a microsecond on a core that is not disturbed.
inline double steps_per_us() {
    static const double steps = [] {
        constexpr std::uint64_t kSteps = 200'000;
        double best = 1;
        for (int i = 0; i < 50; ++i) best = std::min(best, timed([] { churn(kSteps); }));
        return static_cast<double>(kSteps) / (best * 1e6);
    }();
    return steps;
}

inline std::uint64_t steps_for(double microseconds) {
    return static_cast<std::uint64_t>(steps_per_us() * microseconds);
}

// The seconds that bare threads take for the work items, which they take from a counter, a
// thousandth of all at a time: the floor of every pool.
double threads_take(const std::vector<std::uint64_t>& steps, unsigned threads);

}  // namespace bench
