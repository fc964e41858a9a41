// Cancelling a task that runs; callbacks, coroutines and background maps of a pool.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <coroutine>
#include <fstream>
#include <memory>
#include <thread>
#include <vector>

#include "policy_support.hpp"
#include "pool_cases.hpp"

namespace cancel_test {

namespace mp = sidestep;
using test::error_of;
using test::get;
using test::kGate;
using test::kTell;
using test::methods;
using namespace std::chrono_literals;

namespace {

mp::Future<std::uint64_t> hold(mp::Pool& pool, test::SharedWords& words) {
    return pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
}
int fail(int x) { throw std::out_of_range("bad " + std::to_string(x)); }
int to_int(const std::string& text) { return std::stoi(text); }

// A coroutine that is started at once and belongs to nobody.
struct Detached {
    struct promise_type {
        Detached get_return_object() { return {}; }
        std::suspend_never initial_suspend() { return {}; }
        std::suspend_never final_suspend() noexcept { return {}; }
        void return_void() {}
        void unhandled_exception() { std::terminate(); }
    };
};
Detached sum_of(mp::Future<int> a, mp::Future<int> b, std::atomic<int>& result) {
    result = co_await a + co_await b;
}
Detached error_text(mp::Future<int> f, std::atomic<bool>& caught) {
    try {
        (void)co_await f;
    } catch (const std::out_of_range&) {
        caught = true;
    }
}
Detached chain(mp::Pool& pool, std::atomic<int>& result) {
    int x = co_await pool.submit(test::add, 1, 2);
    x = co_await pool.submit(test::add, x, 10);
    result = co_await pool.submit(test::add, x, 100);
}

std::size_t mappings() {
    std::ifstream maps("/proc/self/maps");
    return static_cast<std::size_t>(
        std::count(std::istreambuf_iterator<char>(maps), std::istreambuf_iterator<char>(), '\n'));
}

}  // namespace

PROCESSES_CASE("Tasks",
               "a task that runs is cancelled at once, and its worker is free for the next",
               "[cancel]", "without workers a task is done when submit() comes back",
               "a thread's task that runs cannot be cancelled, and may be asked to stop") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    for (int round = 0; round < 3; ++round) {
        words[kTell] = 0;
        auto endless = pool.submit(test::spin, words.path());
        auto behind = pool.submit(test::own_pid);
        auto worker = static_cast<pid_t>(test::await(words[kTell]));
        CHECK(test::eventually([&] { return endless.running(); }));
        CHECK_FALSE(behind.running());
        CHECK(endless.describe() == "Future: running");
        CHECK(endless.cancel());
        CHECK(endless.ready());
        CHECK(endless.cancelled());
        CHECK_FALSE(endless.running());
        CHECK(endless.cancel());
        CHECK_THROWS_AS(endless.get(), mp::CancelledError);
        CHECK(endless.describe() == "Future: cancelled");
        CHECK(get(behind) != worker);
        CHECK_FALSE(behind.cancel());
    }
    CHECK(test::becomes_quiet());
}

TEST_CASE("a cancelled task that heeds the request keeps its worker", "[pool][cancel][stop]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method, .stop_grace = 1h});
    auto endless = pool.submit(test::until_asked, words.path());
    auto worker = static_cast<int>(test::await(words[kTell]));
    CHECK(test::eventually([&] { return endless.cancel(); }));
    CHECK_THROWS_AS(endless.get(), mp::CancelledError);
    CHECK(get(pool.submit(test::own_pid)) == worker);
    CHECK(words[test::kCount] == 100);
    CHECK(test::becomes_quiet());
}

TEST_CASE("a cancelled task that resists is killed, and the pool can be closed meanwhile",
          "[pool][cancel]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2, .start_method = method, .terminate_grace = 20ms});
    auto endless = pool.submit(test::ignore_sigterm, words.path());
    test::await(words[kTell]);
    auto others = pool.submit(test::add, 1, 2);
    CHECK(endless.cancel());
    pool.close();
    pool.join();
    CHECK(get(others) == 3);
    CHECK(endless.cancelled());
}

TEST_CASE("a cancel wakes those who wait for the task, in other threads", "[pool][cancel]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    auto endless = pool.submit(test::spin, words.path());
    std::atomic<int> cancelled{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i)
        threads.emplace_back([&] {
            try {
                get(endless);
            } catch (const mp::CancelledError&) {
                ++cancelled;
            }
        });
    test::await(words[kTell]);
    CHECK(endless.cancel());
    for (std::thread& t : threads) t.join();
    CHECK(cancelled == 3);
}

TEST_CASE("cancel() says false only of what is finished", "[pool][cancel]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method, .stop_grace = 1h});
    int false_early = 0, cancelled = 0;
    for (int round = 0; round < 300; ++round) {
        std::vector<mp::Future<int>> futures;
        for (int i = 0; i < 10; ++i) futures.push_back(pool.submit(test::add, i, 1));
        for (auto& f : futures) {
            bool yes = f.cancel();
            cancelled += yes;
            false_early += !yes && !f.ready();
            CHECK(yes == f.cancelled());
        }
        for (int i = 0; i < 10; ++i) {
            auto& f = futures[static_cast<std::size_t>(i)];
            if (!f.cancelled()) CHECK(get(f) == i + 1);
        }
    }
    CHECK(false_early == 0);
    CHECK(cancelled > 0);
    CHECK(pool.apply(test::add, 1, 2) == 3);
}

TEST_CASE("a task that fails while it is cancelled, and was to run again, is cancelled",
          "[pool][cancel][retry]") {
    using Clock = std::chrono::steady_clock;
    mp::Pool pool({.processes = 1, .stop_grace = 1h});
    mp::TaskOptions options{.retry = {.max_attempts = 2, .backoff = 1h, .max_backoff = 1h}};
    for (int i = 0; i < 20000; ++i) {
        auto f = pool.submit(options, fail, i);
        // It waits, runs, fails, or is to run again in an hour: it is never done. (The moment
        // between the first two looks of cancel() is met in a third of the runs.)
        for (auto end = Clock::now() + i % 400 * 200ns; Clock::now() < end;) {
        }
        REQUIRE(f.cancel());
        REQUIRE(f.cancelled());
    }
}

TEST_CASE("callbacks of a pool's futures are called, by outcome, before join() returns",
          "[pool][callback][py:_TestPoolWorkerErrors.test_async_error_callback]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    std::atomic<int> value{0}, errors{0}, done{0}, cancelled{0};
    std::exception_ptr error;
    mp::Pool pool({.processes = 2, .start_method = method});
    pool.apply_async(test::add, 1, 2).on_value([&](int x) { value = x; });
    auto bad = pool.apply_async(fail, 3);
    bad.on_value([&](int) { value = -1; }).on_error([&](std::exception_ptr e) {
        error = e;
        ++errors;
    });
    auto endless = pool.submit(test::spin, words.path());
    endless.add_done_callback([&](const mp::Future<int>& f) { cancelled += f.cancelled(); });
    test::await(words[kTell]);
    CHECK(endless.cancel());
    for (int i = 0; i < 100; ++i)
        pool.submit(test::add, i, 1).add_done_callback([&](const mp::Future<int>&) { ++done; });
    CHECK_THROWS_AS(get(bad), std::out_of_range);
    pool.close();
    pool.join();
    CHECK(value == 3);
    CHECK(errors == 1);
    CHECK_THROWS_WITH(std::rethrow_exception(error), "bad 3");
    CHECK(cancelled == 1);
    CHECK(done == 100);
    int late = 0;
    bad.add_done_callback([&](const mp::Future<int>&) { ++late; });
    CHECK(late == 1);
}

TEST_CASE("a callback may throw, submit, cancel, close and terminate; the pool goes on",
          "[pool][callback]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    test::CapturedStderr text;
    mp::Pool pool({.processes = 1, .start_method = method});
    std::atomic<int> last{0};
    pool.submit(test::add, 1, 2).on_value([&](int x) {
        pool.submit(test::add, x, 4).on_value([&](int y) {
            last = y + pool.apply(test::add, y, 1);  // it may wait, too
        });
        throw std::runtime_error("from a callback");
    });
    CHECK(test::eventually([&] { return last != 0; }));
    CHECK(last == 15);
    // The inner callback may have run within the outer one, which has yet to throw.
    CHECK(
        test::eventually([&] { return text.text().find("from a callback") != std::string::npos; }));
    auto held = hold(pool, words);
    auto waits = pool.submit(test::add, 1, 2);
    test::await(words[kTell]);
    held.add_done_callback([&](const auto&) { (void)waits.cancel(); });
    waits.add_done_callback([&](const auto&) { pool.terminate(); });
    CHECK(held.cancel());
    CHECK(test::eventually([&] {
        try {
            pool.submit(test::add, 1, 2);
            return false;
        } catch (const std::logic_error&) {
            return true;
        }
    }));
    pool.join();
}

TEST_CASE("join() in a callback is refused: it would wait for itself", "[pool][callback]") {
    auto method = GENERATE(from_range(methods()));
    bool in_background = GENERATE(false, true);
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    std::string text;
    auto join_here = [&](const auto&) {
        try {
            pool.close();
            pool.join();
        } catch (const std::logic_error& error) {
            text = error.what();
        }
    };
    auto wait_there = [](const std::string& path) { return test::wait_at(path, kTell, kGate); };
    if (in_background)
        pool.map_async(wait_there, std::vector{words.path()}).add_done_callback(join_here);
    else
        pool.submit(wait_there, words.path()).add_done_callback(join_here);
    words[kGate] = 1;
    pool.close();
    pool.join();
    CHECK_THAT(text, Catch::Contains("callback") && Catch::Contains("another thread"));
}

TEST_CASE("a coroutine waits for futures", "[pool][callback][coroutine]") {
    auto method = GENERATE(from_range(methods()));
    std::atomic<int> sum{0}, chained{0};
    std::atomic<bool> caught{false};
    mp::Pool pool({.processes = 2, .start_method = method});
    sum_of(pool.submit(test::add, 1, 2), pool.submit(test::add, 3, 4), sum);
    error_text(pool.submit(fail, 1), caught);
    chain(pool, chained);
    CHECK(test::eventually([&] { return sum && chained && caught; }));
    CHECK(sum == 10);
    CHECK(chained == 113);
    mp::Promise<int> promise;
    std::atomic<int> doubled{0};
    sum_of(promise.future(), promise.future(), doubled);
    CHECK(doubled == 0);
    promise.set_value(21);
    CHECK(doubled == 42);
}

TEST_CASE("map_async gives a future of all results",
          "[pool][map][py:_TestPool.test_map_async][py:_TestPool.test_map_async_callbacks]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<long> items(1000), squares;
    for (std::size_t i = 0; i < items.size(); ++i) {
        items[i] = static_cast<long>(i);
        squares.push_back(items[i] * items[i]);
    }
    CHECK(get(pool.map_async(test::square, items)) == squares);
    CHECK(get(pool.map_async(test::square, items, {.chunksize = 7})) == squares);
    CHECK(get(pool.map_async(test::square, std::vector<long>())).empty());
    std::vector<std::pair<int, int>> pairs{{1, 2}, {3, 4}};
    CHECK(get(pool.starmap_async(test::add, pairs)) == std::vector<int>{3, 7});
    get(pool.map_async([](long) {}, items));

    std::vector<int> values;
    std::exception_ptr error;
    auto attach = [&](const mp::Future<std::vector<int>>& map) {
        map.on_value([&](const std::vector<int>& v) { values = v; })
            .on_error([&](std::exception_ptr e) { error = e; });
        (void)map.wait_for(test::kPatience);
    };
    attach(pool.map_async(to_int, std::vector<std::string>{"1"}));
    CHECK(test::eventually([&] { return values == std::vector<int>{1}; }));
    attach(pool.map_async(to_int, std::vector<std::string>{"1", "a"}));
    pool.close();
    pool.join();  // the callbacks were called
    REQUIRE(error);
    CHECK_THROWS_AS(std::rethrow_exception(error), std::invalid_argument);
    CHECK(values == std::vector<int>{1});
}

TEST_CASE("a map that was called before close() is finished, also by several joins",
          "[pool][map]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<long> items(3000, 3);
    std::vector<mp::Future<std::vector<long>>> maps;
    for (int i = 0; i < 4; ++i)
        maps.push_back(pool.map_async(test::square, items, {.chunksize = 10}));
    pool.close();
    CHECK_THROWS_AS(pool.map_async(test::square, items), std::logic_error);
    std::vector<std::thread> joiners;
    for (int i = 0; i < 3; ++i) joiners.emplace_back([&] { pool.join(); });
    for (std::thread& t : joiners) t.join();
    for (auto& map : maps) {
        CHECK(map.ready());
        CHECK(get(map) == std::vector<long>(3000, 9));
    }
}

TEST_CASE("terminate() fails a map that runs in the background", "[pool][map]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    auto map = pool.map_async(test::spin, std::vector<std::string>(100, words.path()));
    test::await(words[kTell]);
    pool.terminate();
    pool.join();
    CHECK_THROWS(get(map));
}

TEST_CASE("a background map leaves no thread behind when it is done", "[pool][map]") {
    mp::Pool pool({.processes = 1, .start_method = mp::StartMethod::fork});
    auto run = [&] {
        for (int i = 0; i < 50; ++i)
            CHECK(get(pool.map_async(test::square, std::vector<long>{2})) == std::vector<long>{4});
    };
    run();
    std::size_t before = mappings();
    for (int i = 0; i < 4; ++i) run();
    // Each thread that stays would keep its stack, two of them; those that have ended are joined.
    CHECK(test::eventually([&] {
        (void)get(pool.map_async(test::square, std::vector<long>{2}));
        return mappings() < before + 50;
    }));
}

}  // namespace cancel_test
