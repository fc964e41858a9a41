#include "sync/spin.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <thread>

namespace sidestep::inline v0 {
namespace {

using namespace std::chrono_literals;
constexpr auto kMostSpin = 50us;
constexpr std::uint32_t kRounds = 12;
constexpr auto kFallAsleep = 20us;
constexpr auto kNotMeasured = 10us;  // what is taken instead: between bare metal and a slow machine

void busy_for(std::chrono::nanoseconds time) {
    for (auto end = sys::Clock::now() + time; sys::Clock::now() < end;) cpu_relax();
}

// How long it takes a sleeping thread on another CPU to run after it was woken. (On one CPU waking
// is a switch, a tenth of that.) Before each wake-up the thread is given the time to fall asleep:
// two that hand a word to and fro at once may meet awake. Throws if no such thread can be had.
std::chrono::nanoseconds measure() {
    std::atomic<std::uint32_t> round{0}, ready{0};
    std::array<sys::Clock::time_point, kRounds> told, woken;
    std::thread sleeper([&] {
        sys::OnCpu other(1);
        for (std::uint32_t i = 0; i < kRounds; ++i) {
            ready.store(i + 1);
            for (std::uint32_t seen; (seen = round.load()) != i + 1;)
                sys::futex_wait(round, seen, sys::Clock::now() + 100ms);
            woken[i] = sys::Clock::now();
        }
    });
    sys::OnCpu here(0);  // after the other one was started: that inherits the CPUs
    for (std::uint32_t i = 0; i < kRounds; ++i) {
        while (ready.load() != i + 1) std::this_thread::yield();
        busy_for(kFallAsleep);
        told[i] = sys::Clock::now();
        round.store(i + 1);
        sys::futex_wake(round, 1);
    }
    sleeper.join();
    std::array<std::chrono::nanoseconds, kRounds> costs;
    for (std::size_t i = 0; i < kRounds; ++i) costs[i] = woken[i] - told[i];
    std::sort(costs.begin(), costs.end());
    return std::min<std::chrono::nanoseconds>(costs[kRounds * 3 / 4], kMostSpin);
}

// A number that is found out once in a process (negative: not this time). A static local variable
// would not do: if the process is forked while another thread finds it out, the child waits for
// that thread for ever. Two threads may find it out at once: the first counts.
class FoundOnce {
  public:
    template <class Find>
    std::int64_t get(Find find) {
        std::int64_t known = value_.load(std::memory_order_relaxed);  // it is the whole message
        if (known >= 0) return known;
        std::int64_t found = find();
        if (found < 0) return found;  // the next one tries again
        return value_.compare_exchange_strong(known, found) ? found : known;
    }

  private:
    std::atomic<std::int64_t> value_{-1};
};

}  // namespace

std::optional<std::chrono::nanoseconds> measure_wake_up() noexcept {
    try {
        return measure();
    } catch (const std::exception&) {  // a limit on threads, or no memory
        return {};
    }
}

std::chrono::nanoseconds wake_up_cost() {
    static constinit FoundOnce cost;
    std::int64_t found = cost.get([] {
        auto measured = measure_wake_up();
        return measured ? measured->count() : std::int64_t(-1);
    });
    return found < 0 ? kNotMeasured : std::chrono::nanoseconds(found);
}

std::chrono::nanoseconds spin_budget() {
    static constinit FoundOnce cpus;
    bool alone = cpus.get([] { return static_cast<std::int64_t>(sys::usable_cpus()); }) == 1;
    return alone ? 0ns : wake_up_cost();
}

}  // namespace sidestep
