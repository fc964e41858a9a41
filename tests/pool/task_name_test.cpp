// TaskOptions::name: what a task is called in errors, statistics and traces.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "both_pools.hpp"
#include "policy_support.hpp"
#include "pool_cases.hpp"

namespace task_name_test {

namespace mp = sidestep;
using Catch::Contains;
using test::error_of;
using test::get;
using test::Pools;
using test::Threads;
using namespace std::chrono_literals;

namespace {

int until_stopped(int x) {
    while (!mp::this_task::stop_requested()) {
    }
    return x;
}
int crash_at_three(int x) {
    if (x == 3) test::die(SIGKILL);
    return x;
}

bool has_slow_task(const mp::PoolStats& stats, const std::string& name) {
    for (const mp::SlowTask& task : stats.slowest)
        if (task.name == name) return true;
    return false;
}

struct NamedProcesses {
    mp::Pool pool{[] {
        mp::PoolOptions options = test::with_each_method();
        options.task.name = "by default";
        return options;
    }()};
};
struct NamedThreads {
    mp::ThreadPool pool{{.threads = 2, .task = {.name = "by default"}}};
};

}  // namespace

TEST_CASE("an error says the task's name beside its function", "[pool][names]") {
    mp::Pool pool(test::with_each_method());
    auto lost =
        error_of<mp::WorkerLost>(pool.submit({.name = "resize cat.jpg"}, test::die, SIGKILL));
    CHECK(lost.name() == "resize cat.jpg");
    CHECK_THAT(lost.what(),
               Contains("while it ran task 1 \"resize cat.jpg\" (") && Contains("die(int)"));
    auto late = error_of<mp::TaskTimeout>(
        pool.submit({.timeout = 1ms, .name = "slow one"}, until_stopped, 1));
    CHECK_THAT(late.what(), Contains("task 2 \"slow one\" ("));
    auto nameless = error_of<mp::WorkerLost>(pool.submit(test::die, SIGKILL));
    CHECK(nameless.name().empty());
    CHECK_THAT(nameless.what(), Contains("while it ran task 3 ("));
    try {
        pool.map(crash_at_three, test::numbers(5), {.task = {.name = "all cats"}});
        FAIL("no error");
    } catch (const mp::WorkerLost& error) {
        CHECK_THAT(error.what(), Contains("item 3 of task") && Contains("\"all cats\" ("));
    }
}

CASE_ON("Tasks", "the timeout of a task says its name, and a pool has one for those without",
        "[threads][names]", "without workers a task runs to its end, whatever its timeout",
        NamedProcesses, NamedThreads) {
    TestType t;
    mp::TaskOptions brief{.timeout = 1ms};
    CHECK(error_of<mp::TaskTimeout>(t.pool.submit(brief, until_stopped, 1)).name() == "by default");
    brief.name = "its own";
    auto error = error_of<mp::TaskTimeout>(t.pool.submit(brief, until_stopped, 1));
    CHECK(error.name() == "its own");
    CHECK_THAT(error.what(), Contains("task 2 \"its own\" ("));
}

POOL_CASE("Tasks", "statistics and traces call a task by its name", "[threads][names]") {
    TestType t;
    const std::string path =
        (std::filesystem::temp_directory_path() / ("sidestep-names-" + std::to_string(getpid())))
            .string();
    t.pool.trace(path);
    CHECK(get(t.pool.submit({.name = "add \"one\""}, test::add, 1, 2)) == 3);
    CHECK(get(t.pool.submit(test::add, 1, 2)) == 3);
    CHECK(test::eventually([&] { return t.pool.stats().slowest.size() == 2; }));
    CHECK(has_slow_task(t.pool.stats(), "add \"one\""));
    t.pool.close();
    t.pool.join();
    std::ifstream file(path);
    std::string text(std::istreambuf_iterator<char>(file), {});
    std::filesystem::remove(path);
    CHECK_THAT(text, Contains(R"("add \"one\"")"));
}

}  // namespace task_name_test
