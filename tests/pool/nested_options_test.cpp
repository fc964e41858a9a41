// Options of nested tasks, and what comes after them: then().
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/task_pool.hpp>

#include "both_pools.hpp"
#include "policy_support.hpp"

namespace nested_options_test {

namespace mp = sidestep;
namespace this_task = sidestep::this_task;
using namespace std::chrono_literals;
using Catch::Contains;
using mp::Future;
using mp::TaskOptions;
using test::get;
using test::SharedWords;

namespace {

// What the nested task comes to: its value, or the text of its error.
template <class T>
std::string outcome(const Future<T>& future) {
    try {
        return std::to_string(future.get());
    } catch (const std::exception& error) {
        return error.what();
    }
}

int stay() {
    (void)test::eventually([] { return this_task::stop_requested(); });
    return 1;
}
int stay_until_asked() {
    (void)test::eventually([] { return this_task::stop_requested(); });
    return int(this_task::attempt());
}
int third_time(int x) {
    if (this_task::attempt() < 3) throw std::runtime_error("not yet");
    return x + int(this_task::attempt());
}
int twice(int x) { return 2 * x; }
int throw_it(int x) { throw std::out_of_range("at " + std::to_string(x)); }
std::size_t length(const std::string& text) { return text.size(); }
std::string text_of(std::size_t size) { return std::string(size, 'x'); }
long fib(int n) {
    if (n < 2) return n;
    auto left = this_task::pool().submit({.retry = {.max_attempts = 2}}, fib, n - 1);
    auto right = this_task::pool().submit({.retry = {.max_attempts = 2}}, fib, n - 2);
    return left.get() + right.get();
}
long count_down(long n) {
    if (n == 0) return 0;
    return this_task::pool().submit(count_down, n - 1).then([](long x) { return x + 1; }).get();
}

std::string refused(const TaskOptions& options) {
    try {
        (void)this_task::pool().submit(options, twice, 1);
        return "taken";
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
}

}  // namespace

TEMPLATE_TEST_CASE("a nested task has a timeout of its own", "[pool][nested][options]",
                   test::Processes, test::Threads) {
    TestType t;
    const std::string text = get(t.pool.submit([] {
        TaskOptions options{.timeout = 30ms, .name = "the nested one"};
        auto late = this_task::pool().submit(options, stay);
        auto in_time = this_task::pool().submit({.timeout = 1h}, twice, 21);
        return outcome(late) + "; " + outcome(in_time);
    }));
    CHECK_THAT(text, Contains("\"the nested one\"") && Contains("its timeout of 30 ms") &&
                         Catch::EndsWith("; 42"));
    CHECK(get(t.pool.submit([] {
              return this_task::pool().submit({.soft_timeout = 20ms}, stay_until_asked).get();
          })) == 1);
}

TEMPLATE_TEST_CASE("a nested task is run again, as its options say", "[pool][nested][options]",
                   test::Pools, test::Threads) {
    TestType t;
    CHECK(get(t.pool.submit([] {
              TaskOptions options{.retry = {.max_attempts = 3, .backoff = 1ms, .jitter = 0}};
              return this_task::pool().submit(options, third_time, 10).get();
          })) == 13);
    CHECK(get(t.pool.submit([] {
              return outcome(
                  this_task::pool().submit({.retry = {.max_attempts = 2}}, third_time, 10));
          })) == "not yet");
}

TEMPLATE_TEST_CASE("what a nested task cannot have is refused by its name",
                   "[pool][nested][options]", test::Pools, test::Threads) {
    TestType t;
    CHECK_THAT(get(t.pool.submit([] { return refused({.key = 7}); })),
               Catch::StartsWith("TaskOptions::key: "));
    auto when = [] {
        return refused({.retry = {.max_attempts = 2, .when = [](const auto&) { return true; }}});
    };
    CHECK_THAT(get(t.pool.submit(when)), Catch::StartsWith("TaskOptions::retry.when "));
    CHECK_THAT(get(t.pool.submit([] { return refused({.timeout = -1ns}); })),
               Contains("timeout is negative"));
    CHECK_THAT(get(t.pool.submit([] { return refused({.uses = {{"gpu", 1}}}); })), Contains("gpu"));
    CHECK(get(t.pool.submit([] { return refused({.priority = 3, .name = "plain"}); })) == "taken");
}

TEST_CASE("a nested task that costs workers does so as often as its options say",
          "[pool][nested][options]") {
    mp::Pool pool(test::with_each_method());
    const std::string text = get(pool.submit([] {
        TaskOptions options{.retry = {.max_attempts = 9, .max_crashes = 3}};
        return outcome(this_task::pool().submit(options, test::die, SIGKILL));
    }));
    CHECK_THAT(text, Contains(", after 3 of 9 attempts (no more: Retry::max_crashes is 3)"));
}

TEST_CASE("a nested task has a memory limit, and tokens", "[pool][nested][options]") {
    mp::PoolOptions of_pool = test::with_each_method();
    of_pool.tokens = {{"gpu", 1}};
    mp::Pool pool(of_pool);
    const std::string text = get(pool.submit([] {
        auto large = [](std::size_t size) {
            std::vector<char> memory(size, 'x');
            return stay() + int(memory.size() % 2);
        };
        TaskOptions options{.memory_limit = std::size_t(128) << 20};
        return outcome(this_task::pool().submit(options, large, std::size_t(200) << 20));
    }));
    CHECK_THAT(text, Contains("more than its memory_limit of 128 MiB"));
    // One has it, and the others wait for it: never two at once.
    SharedWords words(test::kWords);
    auto most = pool.submit(
        [](const std::string& path) {
            auto alone = [](const std::string& at) {
                SharedWords::Word* shared = SharedWords::attach(at);
                const std::uint64_t before = shared[test::kTell].fetch_add(1);
                shared[test::kCount].fetch_add(1);
                shared[test::kTell].fetch_sub(1);
                return before;
            };
            std::vector<Future<std::uint64_t>> futures;
            for (int i = 0; i < 20; ++i)
                futures.push_back(this_task::pool().submit({.uses = {{"gpu", 1}}}, alone, path));
            std::uint64_t others = 0;
            for (const auto& future : futures) others = std::max(others, future.get());
            return others;
        },
        words.path());
    CHECK(get(most) == 0);
    CHECK(words[test::kCount] == 20);
}

TEST_CASE("nested tasks with limits keep them when all workers wait, and come to an end",
          "[pool][nested][options]") {
    mp::Pool pool({.processes = 1});
    struct Deep {
        static std::string at(int depth) {
            if (depth == 0) return outcome(this_task::pool().submit({.timeout = 20ms}, stay));
            return this_task::pool().submit({.timeout = 1h}, &at, depth - 1).get();
        }
    };
    CHECK_THAT(get(pool.submit(&Deep::at, 4)), Contains("its timeout of 20 ms"));
    CHECK(get(pool.submit(fib, 7)) == 13);
    CHECK(pool.processes() == 1);
}

TEST_CASE("tasks that wait for nested ones with limits do not make workers without end",
          "[pool][nested][options]") {
    mp::Pool pool({.processes = 2});
    std::vector<Future<int>> futures;
    for (int i = 0; i < 60; ++i)
        futures.push_back(pool.submit(
            [](int x) { return this_task::pool().submit({.timeout = 1h}, twice, x).get(); }, i));
    std::size_t most = 0;
    CHECK(test::eventually([&] {
        most = std::max(most, pool.worker_pids().size());
        return std::all_of(futures.begin(), futures.end(), [](auto& f) { return f.ready(); });
    }));
    for (int i = 0; i < 60; ++i) CHECK(get(futures[std::size_t(i)]) == 2 * i);
    CHECK(most <= 20);  // not one for each that waits: a few, as the machine has time for them
}

TEMPLATE_TEST_CASE("then() of a nested task is a task of the same pool", "[pool][nested][then]",
                   test::Pools, test::Threads) {
    TestType t;
    CHECK(
        get(t.pool.submit(
            [](int x) { return this_task::pool().submit(twice, x).then(twice).then(twice).get(); },
            5)) == 40);
    CHECK(get(t.pool.submit(
              [] { return this_task::pool().submit([] {}).then([] { return 3; }).get(); })) == 3);
    CHECK(get(t.pool.submit(
              [](std::size_t size) {
                  return this_task::pool().submit(text_of, size).then(length).get();
              },
              std::size_t(1'000'000))) == 1'000'000);
    // One that is done, and what several wait for.
    CHECK(get(t.pool.submit([] {
              auto first = this_task::pool().submit(twice, 4);
              first.wait();
              auto a = first.then(twice), b = first.then([](int x) { return x + 1; });
              return a.get() * 100 + b.get();
          })) == 1609);
}

TEMPLATE_TEST_CASE("what befalls a nested task is that of what comes after it",
                   "[pool][nested][then]", test::Pools, test::Threads) {
    TestType t;
    CHECK(get(t.pool.submit([] {
              return outcome(this_task::pool().submit(throw_it, 3).then(twice).then(twice));
          })) == "at 3");
    CHECK(get(t.pool.submit([] {  // it is known already
              auto first = this_task::pool().submit(throw_it, 4);
              first.wait();
              return outcome(first.then(twice));
          })) == "at 4");
    CHECK(get(t.pool.submit([] {
              return outcome(this_task::pool().submit(twice, 4).then(throw_it));
          })) == "at 8");
}

TEST_CASE("a nested task that is cancelled, or whose worker dies, has none come after it",
          "[pool][nested][then]") {
    mp::Pool pool(test::with_each_method());
    CHECK_THAT(get(pool.submit([] {
                   return outcome(this_task::pool().submit(test::die, SIGKILL).then(twice));
               })),
               Contains("died of signal 9"));
    SharedWords words(test::kWords);
    auto cancelled = pool.submit(
        [](const std::string& path) {
            auto first = this_task::pool().submit(
                [](const std::string& at) {
                    return int(test::wait_at(at, test::kTell, test::kGate));
                },
                path);
            auto next = first.then(twice), other = first.then(twice);
            const bool own = other.cancel();
            return std::vector<bool>{own, first.cancel(), next.wait_for(test::kPatience),
                                     next.cancelled(), other.cancelled()};
        },
        words.path());
    CHECK(get(cancelled) == std::vector<bool>{true, true, true, true, true});
}

TEST_CASE("what comes after nested tasks needs no worker while it waits", "[pool][nested][then]") {
    mp::Pool pool({.processes = 1});
    CHECK(get(pool.submit(count_down, 12L)) == 12);
    // Those that it waits for are lent to workers that wait themselves, or may be.
    CHECK(get(pool.submit([] {
              std::vector<Future<long>> futures;
              for (long i = 0; i < 30; ++i)
                  futures.push_back(this_task::pool().submit(count_down, i % 4).then([](long x) {
                      return this_task::pool().submit(count_down, x).get();
                  }));
              long sum = 0;
              for (const auto& future : futures) sum += future.get();
              return sum;
          })) == 43);
}

TEST_CASE("then() of a nested task that runs inside of the one that waits for it",
          "[pool][nested][then]") {
    SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1});
    static constexpr auto at_gate = [](const std::string& path) {
        return test::wait_at(path, test::kTell, test::kGate);
    };
    // Its worker is the last one that the pool has: there is nobody else for the nested task.
    static constexpr auto waits = [](const std::string& path) {
        SharedWords::Word* shared = SharedWords::attach(path);
        auto first = this_task::pool().submit(at_gate, path);
        Future<std::uint64_t> next;
        std::thread beside([&] {
            (void)test::await(shared[test::kTell]);
            next = first.then([](std::uint64_t x) { return x + 1; });
            shared[test::kGate] = 5;
        });
        const std::uint64_t at_first = first.get();
        beside.join();
        return std::vector<std::uint64_t>{at_first, next.get(),
                                          shared[test::kTell] == std::uint64_t(::getpid())};
    };
    auto outer = pool.submit(
        [](const std::string& path) { return this_task::pool().submit(waits, path).get(); },
        words.path());
    CHECK(get(outer) == std::vector<std::uint64_t>{5, 6, 1});
}

TEST_CASE(
    "what comes after a nested task goes on when its outer one ends, also in a pool that closes",
    "[pool][nested][then]") {
    SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1});
    auto outer = pool.submit(
        [](const std::string& path) {
            (void)test::wait_at(path, test::kTell, test::kGate);
            this_task::pool()
                .submit(test::bump, path, std::size_t(test::kCount))
                .then(mp::bind([](const std::string& at,
                                  std::uint64_t) { return test::bump(at, test::kCount); },
                               path));
        },
        words.path());
    (void)test::await(words[test::kTell]);
    pool.close();
    words[test::kGate] = 1;
    pool.join();
    get(outer);
    CHECK(words[test::kCount] == 2);
}

TEST_CASE("in threads, too, a pool that is closed takes what comes after nested tasks",
          "[pool][nested][then]") {
    mp::ThreadPool pool({.threads = 1});
    std::atomic<bool> begun{false}, closed{false};
    auto outer = pool.submit([&] {
        begun = true;
        (void)test::eventually([&] { return closed.load(); });
        return this_task::pool().submit(twice, 4).then(twice).get();
    });
    REQUIRE(test::eventually([&] { return begun.load(); }));
    pool.close();
    closed = true;
    pool.join();
    CHECK(get(outer) == 16);
}

}  // namespace nested_options_test
