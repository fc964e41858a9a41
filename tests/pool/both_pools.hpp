// The kinds of pools, for a TEMPLATE_TEST_CASE: one contract, run on all of them. One type for each
// class of pool, and not for each way to start workers: a test is compiled once for each type.
#pragma once

#include <vector>

#include <catch2/catch.hpp>
#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

#include "pool_support.hpp"
#ifdef SIDESTEP_TEST_ANOTHER_HOST
#include "another_host.hpp"
#endif

namespace test {

// The options of a pool of two workers for each start method, one after the other: a generator.
// (With TEST_METHODS_IN_TURN one of them, see methods().)
inline sidestep::PoolOptions with_each_method() {
    return {.processes = 2, .start_method = GENERATE(from_range(methods()))};
}
// And those of a pool without workers, whose caller runs its tasks.
inline sidestep::PoolOptions with_each_method_and_none() {
    sidestep::PoolOptions none{.processes = 0};
    auto all = [&] {
        std::vector<sidestep::PoolOptions> options{none};
        for (auto method : methods()) options.push_back({.processes = 2, .start_method = method});
        return options;
    };
    return GENERATE_REF(from_range(all()));
}

#ifdef SIDESTEP_TEST_ANOTHER_HOST  // tests/cluster compiles some of the contracts once more
using Processes = AnotherHost;
using Pools = AnotherHost;
#else
struct Processes {
    sidestep::Pool pool{with_each_method()};
};
struct Pools {
    sidestep::Pool pool{with_each_method_and_none()};
};
#endif
struct Inline {
    sidestep::Pool pool{{.processes = 0}};
};
struct Threads {
    sidestep::ThreadPool pool{{.threads = 2}};
};

}  // namespace test
