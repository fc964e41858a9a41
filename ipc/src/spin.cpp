#include "spin.hpp"

#include <algorithm>
#include <array>
#include <mutex>
#include <thread>

namespace sidestep {
namespace {

using namespace std::chrono_literals;
constexpr auto kMostSpin = 50us;
constexpr int kRounds = 16;

// Two threads hand a word to and fro; each sleeps until it is its turn. Each has a CPU of its own:
// on one, waking is a switch, a tenth of what it is between two.
std::chrono::nanoseconds measure_wake_up() {
    std::atomic<std::uint32_t> turn{0};
    auto wait_for = [&](std::uint32_t wanted) {
        for (std::uint32_t seen; (seen = turn.load()) != wanted;)
            sys::futex_wait(turn, seen, sys::Clock::now() + 100ms);
    };
    auto hand_over = [&](std::uint32_t next) {
        turn.store(next);
        sys::futex_wake(turn, 1);
    };
    std::thread echo([&] {
        sys::OnCpu other(1);
        for (std::uint32_t i = 0; i < kRounds; ++i) {
            wait_for(2 * i + 1);
            hand_over(2 * i + 2);
        }
    });
    std::array<std::chrono::nanoseconds, kRounds> one_way;
    sys::OnCpu here(0);  // after the other one was started: that inherits the CPUs
    for (std::uint32_t i = 0; i < kRounds; ++i) {
        auto begin = sys::Clock::now();
        hand_over(2 * i + 1);
        wait_for(2 * i + 2);
        one_way[i] = (sys::Clock::now() - begin) / 2;
    }
    echo.join();
    std::sort(one_way.begin(), one_way.end());
    return std::min<std::chrono::nanoseconds>(one_way[kRounds * 3 / 4], kMostSpin);
}

}  // namespace

std::chrono::nanoseconds wake_up_cost() {
    static const std::chrono::nanoseconds cost = measure_wake_up();
    return cost;
}

std::chrono::nanoseconds spin_budget() {
    static const bool alone = sys::usable_cpus() == 1;
    return alone ? 0ns : wake_up_cost();
}

}  // namespace sidestep
