// How long to spin before sleeping.
//
// The classic rule, spin for as long as a sleep and a wake-up cost (Karlin et al., "Empirical
// studies of competitive spinning", SOSP 1991), needs that cost: it is 5 us on bare metal and 50 us
// on some virtual machines, and a budget below it is worse than none. So it is measured, once in a
// process. Where more threads want to run than there are CPUs, the budget is zero.
#pragma once

#include <atomic>
#include <chrono>
#include <optional>

#include "sys/sys.hpp"

namespace sidestep::inline v0 {

inline void cpu_relax() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb" ::: "memory");
#endif
}

// How long a thread that sleeps on another CPU takes from its futex wake-up until it runs: the 75th
// percentile of a few times, at most 50 us. Takes about a millisecond. Nothing: no thread can be
// had to measure it with.
std::optional<std::chrono::nanoseconds> measure_wake_up() noexcept;
// The same, measured once and remembered. While it cannot be measured, a guess.
std::chrono::nanoseconds wake_up_cost();

// wake_up_cost(), or zero on one CPU.
std::chrono::nanoseconds spin_budget();

// Spins until done() or until the budget is used up. Returns done()'s last value.
template <class Done>
bool spin_until(std::chrono::nanoseconds budget, Done done) {
    if (done()) return true;
    if (budget.count() == 0) return false;
    auto end = sys::Clock::now() + budget;
    do {
        for (int i = 0; i < 8; ++i) {
            cpu_relax();
            if (done()) return true;
        }
    } while (sys::Clock::now() < end);
    return done();
}

}  // namespace sidestep
