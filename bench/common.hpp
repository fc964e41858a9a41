// What the benchmarks share.
#pragma once

#include <benchmark/benchmark.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace bench {

using Clock = std::chrono::steady_clock;

inline double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

template <class F>
double timed(F&& work) {
    auto begin = Clock::now();
    work();
    return seconds(Clock::now() - begin);
}

inline double median(std::vector<double>& values) {
    auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

// The value below which `part` of them lie.
inline double quantile(std::vector<double> values, double part) {
    std::sort(values.begin(), values.end());
    return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1))];
}

// The result counts `each` items for an iteration: items_per_second.
inline void set_items(benchmark::State& state, double each = 1) {
    state.SetItemsProcessed(
        static_cast<std::int64_t>(static_cast<double>(state.iterations()) * each));
}

inline void pause_us(int microseconds) {
    std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
}

// Longer than any spin budget: who waits for work is asleep afterwards.
constexpr int kPauseUs = 300;

// A process that runs f, without the library's life-cycle.
template <class F>
pid_t fork_child(F f) {
    pid_t pid = fork();
    if (pid == 0) {
        f();
        _exit(0);
    }
    return pid;
}

inline int run_all(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}

}  // namespace bench
