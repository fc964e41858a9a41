// TaskOptions::soft_timeout: a task is asked to stop, and what it returns counts.
#include <signal.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "both_pools.hpp"
#include "policy_support.hpp"
#include "pool_cases.hpp"

namespace soft_timeout_test {

namespace mp = sidestep;
using Catch::Contains;
using test::get;
using test::Processes;
using test::Threads;
using namespace std::chrono_literals;

namespace {

int until_asked(int x) {
    while (!mp::this_task::stop_requested()) {
    }
    return x;
}
bool sleep_through() { return mp::this_task::sleep_for(24h); }  // style-ok: what is tested
bool is_asked() { return mp::this_task::stop_requested(); }
void never_end() {
    for (;;) {
    }
}
unsigned fail_twice() {
    until_asked(0);
    if (mp::this_task::attempt() < 3) throw std::runtime_error("once more");
    return mp::this_task::attempt();
}

}  // namespace

WORKERS_CASE("Tasks", "a task whose soft_timeout is over sees it, and what it returns counts",
             "[threads][soft_timeout]",
             "without workers a task runs to its end, whatever its timeout") {
    TestType t;
    const mp::TaskOptions brief{.soft_timeout = 1ms, .key = 1};
    for (int i = 0; i < 3; ++i) {
        CHECK(get(t.pool.submit(brief, until_asked, i)) == i);
        CHECK_FALSE(get(t.pool.submit(brief, sleep_through)));
        // Who comes next is not asked.
        CHECK_FALSE(get(t.pool.submit({.key = 1}, is_asked)));
        CHECK_FALSE(get(t.pool.submit({.soft_timeout = 1h, .key = 1}, is_asked)));
    }
    const mp::TaskOptions both{.timeout = 1h, .soft_timeout = 1ms};
    CHECK(get(t.pool.submit(both, until_asked, 7)) == 7);
    for (const mp::WorkerStats& worker : t.pool.stats().workers) CHECK(worker.restarts == 0);
}

TEST_CASE("a task that does not heed its soft_timeout is ended by its timeout",
          "[pool][soft_timeout][timeout]") {
    mp::PoolOptions options = test::with_each_method();
    options.task.timeout = 20ms;
    mp::Pool pool(options);
    CHECK_THROWS_AS(get(pool.submit({.timeout = 30ms, .soft_timeout = 1ms}, never_end)),
                    mp::TaskTimeout);
    // The pool's own timeout comes first.
    CHECK_THROWS_AS(get(pool.submit({.soft_timeout = 1h}, never_end)), mp::TaskTimeout);
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
}

TEST_CASE("each attempt of a process has its soft_timeout; after that of a thread none follows",
          "[pool][threads][soft_timeout][retry]") {
    const mp::TaskOptions thrice{.soft_timeout = 1ms, .retry = {.max_attempts = 3}, .key = 1};
    mp::Pool pool(test::with_each_method());
    CHECK(get(pool.submit(thrice, fail_twice)) == 3);
    mp::ThreadPool threads({.threads = 1});
    CHECK_THROWS_WITH(get(threads.submit(thrice, fail_twice)), "once more");
    CHECK_FALSE(get(threads.submit(is_asked)));
}

TEST_CASE("a worker that died of one that was asked asks the next one as well",
          "[pool][soft_timeout]") {
    mp::Pool pool(test::with_each_method());
    const mp::TaskOptions twice{.soft_timeout = 1ms, .retry = {.max_attempts = 2}, .key = 1};
    auto die_when_asked = [] {
        until_asked(0);
        if (mp::this_task::attempt() == 1) test::die(SIGKILL);
        return 5;
    };
    CHECK(get(pool.submit(twice, die_when_asked)) == 5);
}

TEST_CASE("a soft_timeout that makes no sense is refused by name",
          "[pool][threads][soft_timeout]") {
    mp::Pool pool({.processes = 1});
    CHECK_THROWS_WITH(pool.submit({.soft_timeout = -1ms}, is_asked), Contains("is negative"));
    for (auto timeout : {1ms, 2ms})
        CHECK_THROWS_WITH(pool.submit({.timeout = timeout, .soft_timeout = 2ms}, is_asked),
                          Contains("soft_timeout is not shorter than timeout"));
    CHECK_THROWS_WITH(pool.map(test::square, std::vector{1}, {.task = {.soft_timeout = 1ms}}),
                      Contains("MapOptions::task.soft_timeout"));
    CHECK_THROWS_WITH(mp::Pool({.processes = 1, .task = {.soft_timeout = 1ms}}),
                      Contains("PoolOptions::task.soft_timeout"));
    CHECK_THROWS_WITH(mp::ThreadPool({.threads = 1, .task = {.soft_timeout = 1ms}}),
                      Contains("ThreadPoolOptions::task.soft_timeout"));
}

}  // namespace soft_timeout_test
