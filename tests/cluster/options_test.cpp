// What a pool's options say holds on every host; what cannot hold there is refused.
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/barrier.hpp>
#include <sidestep/condition.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/event.hpp>
#include <sidestep/lock.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/semaphore.hpp>
#include <sidestep/shared_memory.hpp>
#include <sidestep/task_pool.hpp>
#include <sidestep/value.hpp>

#include "pool_support.hpp"
#include "stdout_file.hpp"
#include "thread_job.hpp"

namespace options_test {

namespace {

using namespace std::chrono_literals;
using sidestep::Pool;
using test::SharedWords;
using test::ThreadJob;

// With one worker here and two on host1: the key of a task that one of those runs.
constexpr std::uint64_t kOnHost1 = 1;

int process(int) { return ::getpid(); }
std::string variable(const std::string& name) {
    const char* value = std::getenv(name.c_str());
    return value ? value : "";
}
int cpus(int) {
    cpu_set_t set;
    return ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : -1;
}
int stays(int) {
    sidestep::this_task::sleep_for(sidestep::Timeout::forever());  // style-ok: until it is to stop
    return 0;
}
unsigned third_time(int) {
    if (sidestep::this_task::attempt() < 3) throw std::runtime_error("not yet");
    return sidestep::this_task::attempt();
}
int prints(int) {
    std::printf("12345678");
    return 0;
}
int prints_line(int number) {
    std::puts("a line");
    return number;
}
int sum_to(int n) {
    return n == 0 ? 0 : n + sidestep::this_task::pool().submit(sum_to, n - 1).get();
}
// What a task on another host gets of tasks that say nothing for themselves.
std::string name_of_late_task() {
    try {
        return "it came back with " +
               std::to_string(sidestep::this_task::pool().submit(stays, 0).get());
    } catch (const sidestep::TaskTimeout& error) {
        return error.name();
    }
}
unsigned submits_third_time() { return sidestep::this_task::pool().submit(third_time, 0).get(); }
int fails(const std::string& path) {
    ++SharedWords::attach(path)[0];
    throw std::runtime_error("never");
}
void count(const std::string& path, std::size_t index) { ++SharedWords::attach(path)[index]; }

template <class Handle>
void is_refused(Pool& pool, const Handle& handle) {
    auto takes = [](const Handle&) { return 0; };
    CHECK_THROWS_WITH(pool.submit({.key = kOnHost1}, takes, handle),
                      Catch::Contains("exists on this host alone"));
    // By whichever way a task comes; of a map, the item fails.
    CHECK_THROWS_WITH(pool.map(takes, std::vector<Handle>{handle}),
                      Catch::Contains("exists on this host alone"));
}

}  // namespace

TEST_CASE("Workers of other hosts are what the options say", "[cluster][options]") {
    ThreadJob job(1);
    SECTION("a process for each task") {
        Pool pool(job.options({.max_tasks_per_child = 1}));
        int first = pool.submit({.key = kOnHost1}, process, 0).get();
        CHECK(pool.submit({.key = kOnHost1}, process, 0).get() != first);
    }
    SECTION("replaced when they are old") {
        Pool pool(job.options({.max_age = 1ms}));
        int first = pool.submit({.key = kOnHost1}, process, 0).get();
        CHECK(test::eventually(
            [&] { return pool.submit({.key = kOnHost1}, process, 0).get() != first; }));
    }
    SECTION("gone when there is nothing to do, and there again") {
        SharedWords counts(1);
        Pool pool(job.options({.finalizer = sidestep::bind(count, counts.path(), std::size_t(0)),
                               .idle_timeout = 20ms}));
        CHECK(pool.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
        CHECK(test::eventually([&] { return counts[0] == 3; }));
        CHECK(pool.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
    }
    SECTION("each with so many threads, on one CPU") {
        Pool pool(job.options({.pin_workers = true, .inner_threads = 3}));
        CHECK(pool.submit({.key = kOnHost1}, variable, std::string("OMP_NUM_THREADS")).get() ==
              "3");
        CHECK(pool.submit({.key = kOnHost1}, cpus, 0).get() == 1);
    }
}

TEST_CASE("A task on another host submits tasks, and waits for them", "[cluster][nested]") {
    ThreadJob job(1);
    Pool pool(job.options({}));
    CHECK(pool.submit({.key = kOnHost1}, sum_to, 8).get() == 36);  // deeper than there are workers
}

TEST_CASE("What is said for all tasks of a pool is said for those on other hosts",
          "[cluster][options]") {
    ThreadJob job(1);
    SECTION("a timeout") {
        Pool pool(job.options({.task = {.timeout = 20ms}}));
        CHECK_THROWS_AS(pool.submit({.key = kOnHost1}, stays, 0).get(), sidestep::TaskTimeout);
    }
    SECTION("retries") {
        Pool pool(job.options({.task = {.retry = {.max_attempts = 3}}}));
        CHECK(pool.submit({.key = kOnHost1}, third_time, 0).get() == 3);
    }
    SECTION("how much of their output is kept") {
        Pool pool(job.options({.output = sidestep::Output::capture, .output_limit = 3}));
        auto future = pool.submit({.key = kOnHost1}, prints, 0);
        CHECK(future.get() == 0);
        CHECK(future.output().out == "678");
        CHECK(future.output().out_dropped == 5);
    }
    SECTION("what stands before the lines that they print") {
        const test::StdoutFile out;
        Pool pool(
            job.options({.output = sidestep::Output::lines, .line_prefix = "{number} {task}: "}));
        CHECK(pool.submit({.key = kOnHost1, .name = "far"}, prints_line, 0).get() == 0);
        auto one = pool.submit(test::add, 0, 1);
        CHECK(pool.submit({.key = kOnHost1, .name = "late"}, prints_line, one).get() == 1);
        CHECK(test::eventually([&] { return out.text() == "1 far: a line\n3 late: a line\n"; }));
    }
}

TEST_CASE("What is said for all tasks of a pool is said for those that tasks on other hosts submit",
          "[cluster][options][nested]") {
    ThreadJob job(1);
    SECTION("a timeout, and a name") {
        Pool pool(job.options({.task = {.timeout = 20ms, .name = "any of them"}}));
        CHECK(pool.submit({.timeout = test::kPatience, .key = kOnHost1}, name_of_late_task).get() ==
              "any of them");
    }
    SECTION("retries") {
        Pool pool(job.options({.task = {.retry = {.max_attempts = 3}}}));
        CHECK(pool.submit({.key = kOnHost1}, submits_third_time).get() == 3);
    }
    SECTION("retries that a function of the first process decides: there are none") {
        auto always = [](const std::exception_ptr&) { return true; };
        Pool pool(job.options({.task = {.retry = {.max_attempts = 3, .when = always}}}));
        CHECK(pool.submit({.key = kOnHost1}, third_time, 0).get() == 3);
        CHECK_THROWS_WITH(pool.submit({.key = kOnHost1}, submits_third_time).get(), "not yet");
    }
}

TEST_CASE("A task that was sent to another host is run as often as the first process says",
          "[cluster][options]") {
    ThreadJob job(1);
    SharedWords runs(1);
    Pool pool(job.options({.task = {.retry = {.max_attempts = 3}}}));
    CHECK_THROWS_WITH(pool.submit({.key = kOnHost1}, fails, runs.path()).get(), "never");
    CHECK(runs[0] == 3);
}

TEST_CASE("An option that makes no sense is refused before a host hears of the pool",
          "[cluster][options]") {
    ThreadJob job(1);
    CHECK_THROWS_AS(Pool(job.options({.output_limit = 0})), std::invalid_argument);
    CHECK_THROWS_AS(Pool(job.options({.task = {.key = 7}})), std::invalid_argument);
    CHECK_THROWS_WITH(Pool(job.options({.tokens = {{"gpu", 1}}})),
                      Catch::Contains("tokens are counted on one host"));
    Pool pool(job.options());
    CHECK(pool.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
}

TEST_CASE("Whatever is shared on this host is refused at submit", "[cluster][options]") {
    ThreadJob job(1);
    Pool pool(job.options());
    is_refused(pool, sidestep::SharedMemory(sidestep::create_only, 4096));
    is_refused(pool, sidestep::Lock());
    is_refused(pool, sidestep::Event());
    is_refused(pool, sidestep::RLock());
    is_refused(pool, sidestep::Semaphore(1));
    is_refused(pool, sidestep::BoundedSemaphore(1));
    is_refused(pool, sidestep::Condition());
    is_refused(pool, sidestep::Barrier(2));
    is_refused(pool, sidestep::Queue<int>());
    is_refused(pool, sidestep::JoinableQueue<int>());
    auto [connection, other_end] = sidestep::Pipe();
    auto takes = [](const sidestep::Connection&) { return 0; };
    CHECK_THROWS_WITH(pool.submit({.key = kOnHost1}, takes, std::move(connection)),
                      Catch::Contains("exists on this host alone"));
    std::vector<sidestep::Connection> connections;
    connections.push_back(std::move(other_end));
    CHECK_THROWS_WITH(pool.map(takes, std::move(connections)),
                      Catch::Contains("exists on this host alone"));
    is_refused(pool, sidestep::Value<int>(1));
    CHECK(pool.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
}

#ifndef __SANITIZE_THREAD__  // it knows no threads that a forked child starts
TEST_CASE("In a forked copy, options that have hosts make a pool of this machine's workers",
          "[cluster][fork]") {
    ThreadJob job(1);
    const sidestep::PoolOptions options = job.options({.processes = 3});
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        ::alarm(30);
        int failures = 0;
        {
            Pool pool(options);
            failures += pool.hosts().size() != 1 || pool.processes() != 3;
            for (unsigned key = 1; key <= 3; ++key)
                failures += pool.submit({.key = key}, test::add, 1, 2).get() != 3;
        }
        sidestep::stop_forkserver();
        ::_exit(failures);
    }
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
    Pool pool(options);
    CHECK(pool.hosts().size() == 2);
    CHECK(pool.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
}
#endif

}  // namespace options_test
