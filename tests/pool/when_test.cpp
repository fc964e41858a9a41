// when_all, when_any, then, chains, and the ends of pools that have tasks which wait.
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "both_pools.hpp"
#include "pool_cases.hpp"
#include "pool_support.hpp"

namespace when_test {

namespace mp = sidestep;
using test::Pools;
using test::Processes;
using test::Threads;
using namespace std::chrono_literals;

namespace {

int fails(int) { throw std::out_of_range("none"); }
int plus_one(int x) { return x + 1; }
#ifdef TEST_SANITIZED
constexpr int kManySteps = 10'000;
#else
constexpr int kManySteps = 100'000;
#endif

}  // namespace

POOL_CASE("Composition", "when_all gives all values, in the order of the futures", "[both][when]") {
    TestType t;
    std::vector<mp::Future<int>> some;
    for (int i = 0; i < 4; ++i) some.push_back(t.pool.submit([](int x) { return x * x; }, i));
    auto all = mp::when_all(some);
    CHECK(all.get() == std::vector{0, 1, 4, 9});
    CHECK(mp::when_all(std::vector<mp::Future<int>>{}).get().empty());
    auto [number, text, none] =
        mp::when_all(some[2], t.pool.submit([] { return std::string("x"); }), t.pool.submit([] {
        })).get();
    CHECK(number == 4);
    CHECK(text == "x");
    CHECK(none == std::monostate());
    mp::Future<void> voids = mp::when_all(std::vector{t.pool.submit([] {}), t.pool.submit([] {})});
    voids.get();
    // It is an argument like any other future; so is one of these.
    auto size = [](const std::vector<int>& v) { return v.size(); };
    CHECK(t.pool.submit(size, all).get() == 4);
    CHECK(mp::when_all(std::vector{mp::when_all(some), all}).get()[1][3] == 9);
}

POOL_CASE("Composition",
          "when_all fails with the first that fails, when_any is the first that is done",
          "[both][when]") {
    TestType t;
    mp::Promise<int> pending;
    std::vector<mp::Future<int>> some{pending.future(), t.pool.submit(plus_one, 7)};
    auto [index, value] = mp::when_any(some).get();
    CHECK(index == 1);
    CHECK(value == 8);
    some.push_back(t.pool.submit(fails, 1));
    CHECK_THROWS_WITH(mp::when_all(some).get(), "none");
    auto failed = mp::when_any(std::vector{pending.future(), t.pool.submit(fails, 1)});
    CHECK_THROWS_AS(failed.get(), std::out_of_range);
    auto waits = mp::when_all(std::vector{pending.future(), some[1]});
    auto first = mp::when_any(std::vector{pending.future()});
    CHECK_FALSE(waits.ready());
    CHECK(pending.future().cancel());
    CHECK(waits.cancelled());
    CHECK(first.cancelled());
    CHECK_THROWS_WITH(mp::when_any(std::vector<mp::Future<int>>{}),
                      Catch::Contains("when_any() of no futures"));
    CHECK_THROWS_AS(mp::when_all(std::vector<mp::Future<int>>(1)), std::logic_error);
    CHECK(mp::when_any(std::vector{t.pool.submit([] {})}).get() == 0);
    std::vector<mp::Future<int>> one{some[1]};
    CHECK(
        t.pool.submit([](const mp::FirstOf<int>& f) { return f.value; }, mp::when_any(one)).get() ==
        8);
}

POOL_CASE("Composition", "then() is a task of the same pool", "[both][when]") {
    TestType t;
    auto size = t.pool.submit([] { return std::string("four"); })
                    .then([](const std::string& text) { return text.size(); })
                    .then([](std::size_t n) { return static_cast<int>(n) + 1; });
    CHECK(size.get() == 5);
    CHECK(t.pool.submit([] {}).then([] { return 3; }).get() == 3);
    CHECK_THROWS_AS(t.pool.submit(fails, 1).then(plus_one).get(), std::out_of_range);
    mp::Promise<int> promise;
    CHECK_THROWS_WITH(promise.future().then(plus_one), Catch::Contains("pool.submit(f, future)"));
    CHECK_THROWS_WITH(mp::when_all(std::vector{size}).then([](const std::vector<int>&) {}),
                      Catch::Contains("pool.submit(f, future)"));
    CHECK_THROWS_AS(mp::Future<int>().then(plus_one), std::logic_error);
    t.pool.close();
    CHECK_THROWS_AS(size.then(plus_one), std::logic_error);
}

TEST_CASE("then() with captures is for threads", "[pool][when]") {
    int here = 0;
    auto note = [&here](int x) { here = x; };
    {
        mp::ThreadPool threads({.threads = 1});
        auto two = threads.submit(plus_one, 1);
        two.then(note).get();
        CHECK(here == 2);
        threads.close();
        threads.join();
    }
    mp::Future<int> left;
    {
        mp::ThreadPool threads({.threads = 1});
        left = threads.submit(plus_one, 1);
    }
    CHECK_THROWS_WITH(left.then(plus_one), Catch::Contains("ThreadPool is gone"));
    mp::Pool pool({.processes = 1});
    CHECK_THROWS_WITH(pool.submit(plus_one, 1).then(note), Catch::Contains("captures"));
}

POOL_CASE("Composition", "chains are as long as one likes, and diamonds close", "[both][when]") {
    TestType t;
    constexpr int kSteps = 10'000, kLong = 100'000;
    mp::Promise<int> start;
    auto end = t.pool.submit(plus_one, start.future());
    for (int i = 1; i < kSteps; ++i) end = t.pool.submit(plus_one, end);
    start.set_value(0);
    CHECK(end.get() == kSteps);
    // Their end by a failure, from the front.
    mp::Promise<int> refused;
    auto last = t.pool.submit(plus_one, refused.future());
    for (int i = 1; i < kLong; ++i) last = t.pool.submit(plus_one, last);
    CHECK(refused.future().cancel());
    CHECK_THROWS_AS(last.get(), mp::CancelledError);
    auto top = t.pool.submit(plus_one, 0);
    for (int i = 0; i < 20; ++i)
        top = t.pool.submit(test::add, top.then(plus_one), top.then(plus_one));
    CHECK(top.get() == 3'145'726);
}

TEST_CASE("a hundred thousand tasks, each with the result of the one before, come to their end",
          "[pool][when]") {
    auto check = [](auto& pool) {
        mp::Promise<int> start;
        auto end = pool.submit(plus_one, start.future());
        for (int i = 1; i < kManySteps; ++i) end = pool.submit(plus_one, end);
        start.set_value(0);
        CHECK(end.get() == kManySteps);
    };
    mp::Pool pool({.processes = 1});
    check(pool);
    mp::ThreadPool threads({.threads = 1});
    check(threads);
}

TEST_CASE("a chain of when_all is no recursion either", "[pool][when]") {
    mp::Promise<int> start;
    auto next = mp::when_all(std::vector{start.future()}).on_value([](auto&&) {});
    std::vector<mp::Future<void>> links;
    mp::Promise<void> first;
    mp::Future<void> end = first.future();
    for (int i = 0; i < 100'000; ++i) end = mp::when_all(std::vector{end});
    CHECK_FALSE(end.ready());
    first.set_value();
    CHECK(end.ready());
    start.set_value(1);
    CHECK(next.get() == std::vector{1});
}

POOL_CASE("Composition", "a task that waits ends with its pool", "[both][when]") {
    mp::Promise<int> never;
    mp::Future<int> waits, behind, all;
    {
        TestType t;
        waits = t.pool.submit(plus_one, never.future());
        behind = t.pool.submit(plus_one, waits);
        // What the pool itself brings about is waited for, also by way of a callback.
        auto slow = t.pool.submit([](int x) { return x + 40; }, 1);
        auto together = mp::when_all(std::vector{slow, slow});
        all = t.pool.submit([](const std::vector<int>& v) { return v[0] + v[1]; }, together);
    }
    CHECK(all.get() == 82);
    CHECK(waits.cancelled());
    CHECK(behind.cancelled());
    {
        TestType t;
        waits = t.pool.submit(plus_one, never.future());
        t.pool.terminate();
        CHECK_THROWS_AS(waits.get(), mp::CancelledError);
        t.pool.join();
    }
    {
        TestType t;
        waits = t.pool.submit(plus_one, never.future());
        t.pool.shutdown({.wait = true, .cancel_futures = true});
        CHECK_THROWS_AS(waits.get(), mp::CancelledError);
    }
    {
        TestType t;
        mp::Promise<int> later;
        waits = t.pool.submit(plus_one, later.future());
        t.pool.close();
        CHECK_THROWS_AS(t.pool.submit(plus_one, later.future()), std::logic_error);
        std::thread sets([&] { later.set_value(1); });
        t.pool.join();  // for what can still run
        CHECK(waits.ready());
        CHECK(waits.get() == 2);
        sets.join();
    }
}

TEST_CASE("a broken pool ends what waits", "[pool][when]") {
    mp::Promise<int> never;
    {
        mp::Pool pool({.processes = 1, .initializer = [] { throw std::runtime_error("no"); }});
        auto late = pool.submit(plus_one, never.future());
        CHECK_THROWS_AS(late.get(), mp::BrokenPool);
    }
    mp::ThreadPool pool({.threads = 1, .initializer = [] { throw std::runtime_error("broken"); }});
    auto waits = pool.submit(plus_one, never.future());
    CHECK_THROWS_AS(waits.get(), mp::BrokenPool);
}

POOL_CASE("Composition", "a task that waits holds no worker, and is taken back at once",
          "[both][when]") {
    TestType t;
    mp::Promise<int> promise;
    std::vector<mp::Future<int>> waiting;
    for (int i = 0; i < 100; ++i)
        waiting.push_back(t.pool.submit({.key = 1}, test::add, promise.future(), i));
    CHECK(t.pool.submit({.key = 1}, plus_one, 1).get() == 2);
    CHECK(waiting[3].cancel());
    CHECK_THROWS_AS(waiting[3].get(), mp::CancelledError);
    CHECK(waiting[3].cancel());
    promise.set_value(1000);
    CHECK(waiting[99].get() == 1099);
    CHECK(waiting[2].get() == 1002);
    CHECK_FALSE(waiting[2].cancel());
}

POOL_CASE("Composition", "retries count from where a task begins", "[both][when]") {
    TestType t;
    auto second_time = [](int x) {
        if (mp::this_task::attempt() < 2) throw std::runtime_error("not yet");
        return x;
    };
    auto seven = t.pool.submit(plus_one, 6);
    CHECK(t.pool.submit({.retry = {.max_attempts = 2}}, second_time, seven).get() == 7);
    // A failed argument is no attempt.
    auto failed = t.pool.submit({.retry = {.max_attempts = 5}}, plus_one, t.pool.submit(fails, 1));
    CHECK_THROWS_AS(failed.get(), std::out_of_range);
}

TEST_CASE("a timeout counts from where a task begins, however long it had to wait",
          "[pool][both][when]") {
    constexpr auto kLimit = 1s;
    const mp::TaskOptions brief{.timeout = kLimit};
    auto passed = [](std::chrono::milliseconds time) {
        const auto begin = std::chrono::steady_clock::now();
        return test::eventually([&] { return std::chrono::steady_clock::now() - begin > time; });
    };
    test::SharedWords words(3);
    mp::Pool pool({.processes = 1});
    mp::ThreadPool threads({.threads = 1});
    mp::Promise<std::string> path;
    auto in_process =
        pool.submit(brief, test::wait_at, path.future(), std::size_t(0), std::size_t(2));
    auto in_thread =
        threads.submit(brief, test::wait_at, path.future(), std::size_t(1), std::size_t(2));
    CHECK(passed(kLimit + 100ms));
    CHECK_FALSE(in_process.ready());
    CHECK_FALSE(in_thread.ready());
    path.set_value(words.path());
    test::await(words[0]);
    test::await(words[1]);
    CHECK(passed(200ms));
    words[2] = 1;
    CHECK(in_process.get() == 1);
    CHECK(in_thread.get() == 1);
}

WORKERS_CASE("Composition", "a task that had to wait has its timeout all the same", "[both][when]",
             "without workers a task runs to its end, whatever its timeout") {
    TestType t;
    mp::Promise<int> promise;
    auto until_stopped = [](int x) {
        while (!mp::this_task::stop_requested()) {
        }
        return x;
    };
    auto endless = t.pool.submit({.timeout = 20ms}, until_stopped, promise.future());
    promise.set_value(1);
    CHECK_THROWS_AS(endless.get(), mp::TaskTimeout);
}

TEST_CASE("in a forked copy of the process nobody is told, and that is said", "[pool][when]") {
    mp::Pool pool({.processes = 1});
    mp::ThreadPool threads({.threads = 1});
    // What has threads has them, and they rest: a sanitizer's allocator does not live through a
    // fork that comes while a thread begins.
    mp::Promise<int> soon, never;
    auto first = pool.submit(plus_one, soon.future());
    auto first_in_thread = threads.submit(plus_one, soon.future());
    soon.set_value(1);
    CHECK(first.get() + first_in_thread.get() == 4);
    auto pending = pool.submit(plus_one, never.future());
    auto in_thread = threads.submit(plus_one, never.future());
    pid_t child = fork();
    if (child == 0) {
        auto refused = [](auto ask) {
            try {
                ask();
            } catch (const std::logic_error&) {
                return true;
            } catch (...) {
            }
            return false;
        };
        mp::ThreadPool own({.threads = 1});
        mp::Completions<int> done;
        bool right = refused([&] { (void)mp::when_all(std::vector{pending}).get(); }) &&
                     refused([&] { (void)mp::when_any(std::vector{in_thread}).get(); }) &&
                     refused([&] { (void)own.submit(plus_one, in_thread).get(); }) &&
                     refused([&] { (void)own.submit(plus_one, pending).get(); }) &&
                     refused([&] { done.add(pending); }) && refused([&] { done.add(in_thread); }) &&
                     refused([&] { (void)pending.then(plus_one); });
        ::_exit(right ? 0 : 1);
    }
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
    CHECK(pending.cancel());
    CHECK(in_thread.cancel());
}

TEST_CASE("a worker's death is the dependent's error, too", "[pool][when]") {
    mp::Pool pool({.processes = 1});
    auto lost = pool.submit([]() -> int { ::abort(); });
    CHECK_THROWS_AS(lost.then(plus_one).get(), mp::WorkerLost);
    CHECK(pool.submit(plus_one, 1).then(plus_one).get() == 3);
}

TEST_CASE("a callback of when_all may wait for another one, of futures that are done",
          "[pool][when]") {
    mp::Promise<int> first, second;
    second.set_value(2);
    auto all = mp::when_all(std::vector{first.future(), second.future()});
    int seen = 0;
    all.on_value([&](const std::vector<int>&) {
        seen = mp::when_all(std::vector{second.future(), second.future()}).get()[1];
    });
    first.set_value(1);
    CHECK(all.get() == std::vector{1, 2});
    CHECK(seen == 2);
}

}  // namespace when_test
