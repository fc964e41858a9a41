// Messages from producers to consumers, all processes of their own: how every queue is measured.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "common.hpp"

namespace bench {

using Message = std::pair<std::uint64_t, std::uint64_t>;  // 16 bytes

// So many messages are under way at most, where the queue can be told.
constexpr int kQueueLimit = 100'000;

// Runs `count` producers and consumers, each for its share; the seconds until all are through.
template <class Produce, class Consume>
double run_processes(long count, long messages, Produce produce, Consume consume) {
    return timed([&] {
        std::vector<pid_t> children;
        for (long i = 0; i < count; ++i)
            children.push_back(fork_child([&] { produce(messages / count); }));
        for (long i = 0; i < count; ++i)
            children.push_back(fork_child([&] { consume(messages / count); }));
        for (pid_t child : children) waitpid(child, nullptr, 0);
    });
}

// The row NAME/COUNT: messages per second; run(count, messages) returns the seconds they took.
inline void add_queue(const std::string& name, long count, double (*run)(long, long),
                      long messages = 500'000) {
    auto row = [=](benchmark::State& state) {
        for (auto _ : state) state.SetIterationTime(run(count, messages));
        set_items(state, static_cast<double>(messages));
    };
    benchmark::RegisterBenchmark((name + '/' + std::to_string(count)).c_str(), row)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
}

}  // namespace bench
