// Memory that is used up: the operator new of failing_new.cpp fails when it is told to, in the
// threads that are not spared.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdlib>

#include "failing_new.hpp"

namespace test {

inline thread_local bool spared = false;  // this thread's allocations do not fail, and do not count
inline std::atomic<bool> armed{false};
inline std::atomic<bool> lasting{false};   // all fail from then on
inline std::atomic<std::size_t> least{0};  // bytes: smaller ones do not fail, and do not count
inline std::atomic<long> until_failure{0};
inline std::atomic<long> failures{0};

// While it lives, the n-th allocation of the threads that are not spared fails; and all after it.
class Exhausted {
  public:
    Exhausted(long n, bool for_good, std::size_t least_bytes = 0) {
        least = least_bytes;
        lasting = for_good;
        failures = 0;
        until_failure = n;
        armed = true;
    }
    ~Exhausted() { armed = false; }
    Exhausted(const Exhausted&) = delete;
    Exhausted& operator=(const Exhausted&) = delete;
};
// While it lives, this thread's allocations do not fail.
class Spared {
  public:
    Spared() { spared = true; }
    ~Spared() { spared = false; }
    Spared(const Spared&) = delete;
    Spared& operator=(const Spared&) = delete;
};

inline int most_rounds() {
    const char* wanted = std::getenv("NO_MEMORY_ROUNDS");
    return wanted ? std::atoi(wanted) : 60;
}

}  // namespace test
