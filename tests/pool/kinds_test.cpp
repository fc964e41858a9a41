// What a kind of pool does instead of what it cannot: rows of the table in pool_cases.hpp name
// these tests.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <stdexcept>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "both_pools.hpp"
#include "pool_support.hpp"

namespace kinds_test {

namespace mp = sidestep;
using namespace std::chrono_literals;
using test::Inline;
using test::numbers;
using test::Threads;

namespace {

constexpr std::size_t kMiB = std::size_t(1) << 20;

// Takes longer than any of the limits below. 1: it was asked to stop meanwhile.
int outlast(std::chrono::milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) std::this_thread::yield();
    return mp::this_task::stop_requested() ? 1 : 0;
}

// How a copy of this process ends that calls this.
template <class F>
int status_of(F f) {
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);  // a hang is a failure
        f();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

}  // namespace

TEST_CASE("without workers a task runs to its end, whatever its timeout", "[pool][inline]") {
    Inline t;
    CHECK(t.pool.submit({.timeout = 1ms}, outlast, 20ms).get() == 0);
    CHECK(t.pool.submit({.soft_timeout = 1ms}, outlast, 20ms).get() == 0);
    CHECK(t.pool.map(outlast, std::vector(2, 20ms), {.task = {.timeout = 1ms}}) ==
          std::vector{0, 0});
}

TEST_CASE("without workers no limit of memory is looked at", "[pool][inline]") {
    Inline t;
    auto take = [](std::size_t bytes) { return std::vector<char>(bytes, 'x').size(); };
    CHECK(t.pool.submit({.memory_limit = kMiB}, take, 4 * kMiB).get() == 4 * kMiB);
}

TEST_CASE("a ThreadPool refuses a limit of memory, which needs a process", "[pool][thread_pool]") {
    Threads t;
    const char* refusal =
        "TaskOptions::memory_limit: threads share the memory of the process; use a Pool";
    CHECK_THROWS_WITH(t.pool.submit({.memory_limit = 64 * kMiB}, test::add, 1, 2), refusal);
    CHECK_THROWS_WITH(t.pool.map(test::square, numbers(3), {.task = {.memory_limit = 64 * kMiB}}),
                      refusal);
    CHECK_THROWS_WITH(mp::ThreadPool({.task = {.memory_limit = 64 * kMiB}}), refusal);
}

TEST_CASE("without workers, and in threads, a crash ends the program",
          "[pool][inline][thread_pool]") {
    auto check = [](int status) {
        REQUIRE(WIFSIGNALED(status));
        CHECK(WTERMSIG(status) == SIGKILL);
    };
    check(status_of([] { (void)Inline().pool.submit(test::die, SIGKILL).get(); }));
    check(status_of([] { (void)Threads().pool.submit(test::die, SIGKILL).get(); }));
}

TEST_CASE("without workers a task is done when submit() comes back", "[pool][inline]") {
    Inline t;
    auto sum = t.pool.submit(test::add, 1, 2);
    CHECK(sum.ready());
    CHECK_FALSE(sum.cancel());
    CHECK(sum.get() == 3);
}

TEST_CASE("a thread's task that runs cannot be cancelled, and may be asked to stop",
          "[pool][thread_pool][cancel]") {
    Threads t;
    std::atomic<bool> begun{false};
    auto until_asked = [&begun] {
        begun = true;
        while (!mp::this_task::stop_requested()) std::this_thread::yield();
        return 7;
    };
    auto task = t.pool.submit(until_asked);
    REQUIRE(test::eventually([&] { return begun.load(); }));
    CHECK_FALSE(task.cancel());
    CHECK(task.get() == 7);
}

TEST_CASE("without workers find_any looks at one item after the other", "[pool][inline][maps]") {
    Inline t;
    static std::vector<int> looked_at;
    looked_at.clear();
    auto is_three = [](int number) {
        looked_at.push_back(number);
        return number == 3;
    };
    CHECK(t.pool.find_any(is_three, numbers(100), {.chunksize = 1}) == 3u);
    CHECK(looked_at == numbers(static_cast<int>(looked_at.size())));
    CHECK(looked_at.size() < 20);  // as many as a map is ahead
}

TEST_CASE("without workers a stream that is cancelled begins nothing more",
          "[pool][inline][early]") {
    Inline t;
    static int begun;
    begun = 0;
    auto stream =
        t.pool.imap([](int number) { return ++begun, number; }, numbers(100), {.chunksize = 1});
    CHECK(stream.next_outcome()->has_value());
    const int before = begun;
    stream.cancel();
    CHECK(stream.ended());
    CHECK_FALSE(stream.next_outcome());
    CHECK(begun == before);
    CHECK(before < 100);
}

}  // namespace kinds_test
