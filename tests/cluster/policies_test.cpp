// Policies of tasks and pools that a host keeps itself: each as on one machine.
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>
#include <sidestep/task_pool.hpp>

#include "policy_support.hpp"
#include "pool_support.hpp"
#include "thread_job.hpp"

namespace policies_test {

namespace {

using namespace std::chrono_literals;
using Catch::Contains;
using sidestep::MapOptions;
using sidestep::Pool;
using sidestep::TaskOptions;
using sidestep::TaskTimeout;
using sidestep::WorkerLost;
using test::error_of;
using test::get;
using test::SharedWords;
using test::ThreadJob;

// With one worker here and two on host1: the keys of tasks of those.
constexpr std::uint64_t kOnHost1 = 1, kAlsoOnHost1 = 2, kHere = 3;
enum Word : std::size_t { kBegun, kGate, kOrder, kCount, kWords };

int until_asked(int value) {
    while (!sidestep::this_task::stop_requested()) {
    }
    return value;
}
[[gnu::noinline]] void deep_inside() {
    for (;;) asm volatile("");
}
[[gnu::noinline]] int computes(int value) {
    deep_inside();
    return value;
}
int computes_at_three(int item) { return item == 3 ? computes(item) : item; }
int dies_at_three(int item) { return item == 3 ? test::die(SIGKILL) : item; }
int stays(int value) {
    sidestep::this_task::sleep_for(sidestep::Timeout::forever());  // style-ok: until it is to stop
    return value;
}
std::string variable(const std::string& name) {
    const char* value = std::getenv(name.c_str());
    return value ? value : "";
}
std::string folder(int) {
    char path[4096];
    return ::getcwd(path, sizeof path) ? path : "";
}
int only_cpu(int) {
    cpu_set_t set;
    if (::sched_getaffinity(0, sizeof set, &set) != 0 || CPU_COUNT(&set) != 1) return -1;
    int cpu = 0;
    while (!CPU_ISSET(cpu, &set)) ++cpu;
    return cpu;
}
std::uint64_t most_core(int) {
    rlimit limit{};
    return ::getrlimit(RLIMIT_CORE, &limit) == 0 ? limit.rlim_cur : 0;
}
bool names(const std::vector<std::string>& stack, const std::string& function) {
    return std::any_of(stack.begin(), stack.end(), [&](const std::string& frame) {
        return frame.find(function) != std::string::npos;
    });
}

// Whose worker on this host has begun something that ends when the object does.
struct Elsewhere {
    explicit Elsewhere(sidestep::PoolOptions options = {})
        : pool(job.options(std::move(options))),
          here(pool.submit({.key = kHere}, test::wait_at, words.path(), std::size_t(kBegun),
                           std::size_t(kGate))) {
        test::await(words[kBegun]);
    }
    ~Elsewhere() { words[kGate] = 1; }
    std::uint64_t tasks_on_host1() const { return pool.stats().hosts[1].tasks; }

    ThreadJob job{1};
    SharedWords words{kWords};
    Pool pool;
    sidestep::Future<std::uint64_t> here;
};

}  // namespace

TEST_CASE("Of tasks that wait on a host, one of a higher priority is first",
          "[cluster][policies]") {
    ThreadJob job(1);
    SharedWords words(kWords);
    Pool pool(job.options());
    auto held = pool.submit({.key = kOnHost1}, test::wait_at, words.path(), std::size_t(kBegun),
                            std::size_t(kGate));
    test::await(words[kBegun]);
    auto in_order = [&](int priority) {
        return pool.submit({.priority = priority, .key = kOnHost1}, test::bump, words.path(),
                           std::size_t(kOrder));
    };
    auto low = in_order(-3), none = in_order(0), high = in_order(7);
    // The host takes one after the other: when this one is done, it has those.
    CHECK(pool.submit({.key = kAlsoOnHost1}, test::add, 1, 2).get() == 3);
    words[kGate] = 1;
    CHECK(get(held) == 1);
    CHECK(get(high) == 0);
    CHECK(get(none) == 1);
    CHECK(get(low) == 2);
}

TEST_CASE("On another host a task sees that its soft_timeout is over, and what it returns counts",
          "[cluster][policies]") {
    ThreadJob job(1);
    Pool pool(job.options());
    CHECK(get(pool.submit({.soft_timeout = 1ms, .key = kOnHost1}, until_asked, 17)) == 17);
    auto unheeded =
        pool.submit({.timeout = 50ms, .soft_timeout = 1ms, .key = kOnHost1}, computes, 1);
    CHECK(error_of<TaskTimeout>(unheeded).host() == "host1");
}

TEST_CASE("A timeout on another host tells where the task was", "[cluster][policies]") {
    ThreadJob job(1);
    Pool pool(job.options());
    SECTION("of a task") {
        // On a busy machine a worker may have no time to answer.
        CHECK(test::eventually([&] {
            auto late =
                error_of<TaskTimeout>(pool.submit({.timeout = 20ms, .key = kOnHost1}, computes, 1));
            return names(late.stack(), "deep_inside") && names(late.stack(), "computes");
        }));
    }
    SECTION("of an item of a map") {
        auto here = pool.submit({.key = kHere}, stays, 0);
        CHECK(test::eventually([&] {
            try {
                (void)pool.map(computes_at_three, test::numbers(6),
                               {.chunksize = 6, .task = {.timeout = 20ms}});
                return false;
            } catch (const TaskTimeout& late) {
                return late.host() == "host1" && late.item() == 3 &&
                       names(late.stack(), "deep_inside");
            }
        }));
        CHECK(here.cancel());
    }
}

TEST_CASE("Errors from another host say the task's name beside its function",
          "[cluster][policies]") {
    Elsewhere elsewhere;
    Pool& pool = elsewhere.pool;
    TaskOptions named{.timeout = 20ms, .key = kOnHost1, .name = "far away"};
    auto late = error_of<TaskTimeout>(pool.submit(named, stays, 1));
    CHECK(late.name() == "far away");
    CHECK_THAT(late.what(), Contains("\"far away\" (") && Contains("stays(int)"));
    named.timeout = {};
    auto lost = error_of<WorkerLost>(pool.submit(named, test::die, SIGKILL));
    CHECK(lost.name() == "far away");
    CHECK_THAT(lost.what(), Contains("\"far away\" (") && Contains("die(int)"));
    try {
        (void)pool.map(dies_at_three, test::numbers(6),
                       {.chunksize = 6, .task = {.name = "all of it"}});
        FAIL("an item has died");
    } catch (const WorkerLost& error) {
        CHECK(error.host() == "host1");
        CHECK_THAT(error.what(), Contains("item 3 of task") && Contains("\"all of it\" ("));
    }
}

TEST_CASE("Workers of another host have the surroundings that the options say",
          "[cluster][policies]") {
    ThreadJob job(1);
    Pool pool(job.options({.env = {{"WORKER", "number {index}"}},
                           .cwd = "/usr",
                           .cpus = {{0}},
                           .limits = {{sidestep::subprocess::Resource::core_file, 4096}}}));
    std::vector<std::string> all;
    for (std::uint64_t key : {kOnHost1, kAlsoOnHost1})
        all.push_back(get(pool.submit({.key = key}, variable, std::string("WORKER"))));
    std::sort(all.begin(), all.end());
    CHECK(all == std::vector<std::string>{"number 0", "number 1"});
    CHECK(get(pool.submit({.key = kOnHost1}, folder, 0)) == "/usr");
    CHECK(get(pool.submit({.key = kOnHost1}, only_cpu, 0)) == 0);
    CHECK(get(pool.submit({.key = kOnHost1}, most_core, 0)) == 4096);
}

TEST_CASE("A worker of another host that is not ready within start_timeout breaks the pool",
          "[cluster][policies]") {
    ThreadJob job(1);
    auto hangs_elsewhere = [] {
        if (sidestep::this_worker::index() == 1) stays(0);  // here there is but one
    };
    Pool pool(job.options({.initializer = sidestep::bind(hangs_elsewhere), .start_timeout = 1s}));
    auto broken = error_of<sidestep::BrokenPool>(pool.submit({.key = kOnHost1}, stays, 0));
    CHECK_THAT(broken.what(), Contains("start_timeout") && Contains("on host host1"));
}

TEST_CASE("A map that another host runs ends early", "[cluster][policies]") {
    Elsewhere elsewhere;
    Pool& pool = elsewhere.pool;
    const std::string path = elsewhere.words.path();
    const auto numbers = test::numbers(200);
    SECTION("by its first error, with fail_fast") {
        auto bad_at_one = [](const std::string& words, int item) {
            if (item == 1) throw std::domain_error("item one");
            if (item == 0) stays(0);
            return test::bump(words, kCount);
        };
        CHECK_THROWS_WITH(pool.map(sidestep::bind(bad_at_one, path), numbers,
                                   {.chunksize = 1, .fail_fast = true}),
                          Contains("item one"));
        CHECK(elsewhere.words[kCount] < 100);
    }
    SECTION("at its deadline") {
        auto stays_at_two = [](int item) { return item < 2 ? item : stays(item); };
        try {
            (void)pool.map(stays_at_two, numbers, {.chunksize = 10, .deadline = 50ms});
            FAIL("it came back with a result");
        } catch (const TaskTimeout& error) {
            CHECK(error.item() == 0);  // of a chunk that another host has, its first
        }
    }
    SECTION("when find_any has found one") {
        auto is_three = [](int item) { return item == 0 ? stays(0) == 1 : item == 3; };
        CHECK(pool.find_any(is_three, numbers, {.chunksize = 1}) == 3u);
    }
    CHECK(test::eventually([&] { return pool.stats().hosts[1].in_flight == 0; }));
    CHECK(get(pool.submit({.key = kOnHost1}, test::add, 1, 2)) == 3);
}

TEST_CASE("map_reduce merges what another host has computed, in order", "[cluster][policies]") {
    Elsewhere elsewhere;
    auto text = [](int item) { return std::to_string(item); };
    std::string expected;
    for (int i = 0; i < 100; ++i) expected += std::to_string(i);
    CHECK(elsewhere.pool.map_reduce(text, std::plus<std::string>(), test::numbers(100),
                                    {.chunksize = 7}) == expected);
    CHECK(elsewhere.tasks_on_host1() > 0);
}

TEST_CASE("an error of map_reduce names its item on another host", "[cluster][policies]") {
    Elsewhere elsewhere;
    const auto reduce = [&](auto f) {
        return elsewhere.pool.map_reduce(f, std::plus<int>(), test::numbers(8), {.chunksize = 8});
    };
    auto dies = [](int item) { return item == 5 ? test::die(SIGKILL) : item; };
    try {
        (void)reduce(dies);
        FAIL("it came back with a result");
    } catch (const WorkerLost& lost) {
        CHECK(lost.host() == "host1");
        CHECK(lost.item() == 5u);
    }
    auto throws = [](int item) { return item == 6 ? throw std::domain_error("six") : item; };
    try {
        (void)reduce(throws);
        FAIL("it came back with a result");
    } catch (const std::domain_error& error) {
        CHECK_THAT(sidestep::remote_traceback(error), Contains("in item 6 of the map"));
    }
}

TEST_CASE("What a task on another host maps there is no task of the first process",
          "[cluster][policies][nested]") {
    ThreadJob job(1);
    Pool pool(job.options());
    auto sum_of_squares = [](int count) {
        long sum = 0;
        for (long square : sidestep::this_task::pool().map(test::square, test::numbers(count)))
            sum += square;
        return sum;
    };
    CHECK(get(pool.submit({.key = kOnHost1}, sum_of_squares, 1000)) == 332833500);
    CHECK(pool.stats().submitted == 1);
    CHECK(pool.stats().hosts[1].tasks == 1);
}

TEST_CASE("Tasks that another host has count for max_pending", "[cluster][policies]") {
    Elsewhere elsewhere({.max_pending = 3});
    Pool& pool = elsewhere.pool;
    SharedWords words(kWords);
    auto held = [&](std::uint64_t key) {
        return pool.try_submit({.key = key}, test::wait_at, words.path(), std::size_t(kBegun),
                               std::size_t(kGate));
    };
    auto first = held(kOnHost1), second = held(kOnHost1);
    REQUIRE(first);
    REQUIRE(second);
    CHECK_FALSE(held(kOnHost1));
    CHECK_FALSE(held(kAlsoOnHost1));
    words[kGate] = 1;
    CHECK(get(*first) == 1);
    CHECK(get(*second) == 1);
    auto room = held(kOnHost1);
    REQUIRE(room);
    CHECK(get(*room) == 1);
}

}  // namespace policies_test
