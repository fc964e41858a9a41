// What each call and option of the pools that takes a time makes of each time that can be said.
#include <catch2/catch.hpp>

#include <sidestep/promise.hpp>

#include "both_pools.hpp"
#include "pool_support.hpp"
#include "time_cases.hpp"

namespace timeout_cases_test {

namespace mp = sidestep;
using test::Processes;
using test::Threads;
using namespace std::chrono_literals;

namespace {

bool in_time(const std::function<void()>& wait) {
    try {
        wait();
        return true;
    } catch (const mp::TimeoutError&) {
        return false;
    }
}

// The calls of a future; come() completes it, begin() makes a new one.
template <class T>
void check_future(mp::Future<T>& future, const std::function<void()>& begin,
                  const std::function<void()>& come) {
    auto check = [&](const char* name, auto wait) { test::check_times(name, begin, wait, come); };
    check("Future::wait_for", [&](auto time) { return future.wait_for(time); });
    check("Future::get", [&](auto time) { return in_time([&] { (void)future.get(time); }); });
    check("Future::exception",
          [&](auto time) { return in_time([&] { (void)future.exception(time); }); });
    check("wait", [&](auto time) {
        std::vector<mp::Future<T>> futures{future};
        return mp::wait(futures, mp::ReturnWhen::all_completed, time).pending.empty();
    });
    check("as_completed", [&](auto time) {
        std::vector<mp::Future<T>> futures{future};
        return in_time([&] {
            for (auto& done : mp::as_completed(futures, time)) (void)done.get();
        });
    });
}

}  // namespace

TEMPLATE_TEST_CASE("futures of a pool take each time", "[pool][timeout]", Processes, Threads) {
    TestType t;
    test::SharedWords words(2);
    mp::Future<std::uint64_t> future;
    auto come = [&] {
        words[1] = 1;
        if (future.valid()) future.wait();
    };
    auto begin = [&] {
        come();
        words[1] = 0;
        future = t.pool.submit(test::wait_at, words.path(), std::size_t(0), std::size_t(1));
    };
    check_future(future, begin, come);
    come();
}

TEST_CASE("futures of a Promise take each time", "[pool][timeout]") {
    std::optional<mp::Promise<int>> promise;
    mp::Future<int> future;
    auto begin = [&] {
        promise.emplace();
        future = promise->future();
    };
    check_future<int>(future, begin, [&] { promise->set_value(1); });
}

TEMPLATE_TEST_CASE("a task's options take each time", "[pool][timeout]", Processes, Threads) {
    TestType t;
    auto plus = [](int a, int b) { return a + b; };
    test::each_eternity([&](auto time) {
        CHECK(t.pool.submit({.timeout = time}, plus, 1, 2).get() == 3);
        CHECK(t.pool.map([](int x) { return 2 * x; }, std::vector{1, 2},
                         {.task = {.timeout = time}}) == std::vector{2, 4});
        CHECK(t.pool
                  .submit({.retry = {.max_attempts = 2, .backoff = 0s, .max_backoff = time}}, plus,
                          1, 2)
                  .get() == 3);
    });
    CHECK(t.pool.submit({.timeout = 0s}, plus, 1, 2).get() == 3);
    auto refused = [&](const mp::TaskOptions& options) {
        CHECK_THROWS_AS(t.pool.submit(options, plus, 1, 2), std::invalid_argument);
    };
    refused({.timeout = std::chrono::hours::min()});
    refused({.timeout = test::Seconds(-1e-12)});
    refused({.retry = {.max_attempts = 2, .backoff = -1s}});
    refused({.retry = {.max_attempts = 2, .max_backoff = std::chrono::steady_clock::now() - 1h}});
    auto nan = test::Seconds(test::kNaN);
    CHECK_THROWS_AS(t.pool.submit({.timeout = nan}, plus, 1, 2), std::invalid_argument);
    CHECK_THROWS_AS(t.pool.submit({.retry = {.backoff = nan}}, plus, 1, 2), std::invalid_argument);
}

TEMPLATE_TEST_CASE("a task that may run for ever does, beside one that may not", "[pool][timeout]",
                   Processes, Threads) {
    TestType t;
    test::SharedWords words(3);
    words[2] = 1;
    test::each_eternity([&](auto time) {
        words[1] = 0;
        auto patient = t.pool.submit({.timeout = time}, test::wait_at, words.path(), std::size_t(0),
                                     std::size_t(1));
        auto short_one = t.pool.submit({.timeout = 1h}, test::wait_at, words.path(), std::size_t(0),
                                       std::size_t(2));
        CHECK(short_one.get() == 1);
        CHECK_FALSE(patient.ready());
        words[1] = 5;
        CHECK(patient.get() == 5);
    });
}

TEST_CASE("a pause before another attempt that is for ever is waited for", "[pool][timeout]") {
    mp::Pool pool({.processes = 1});
    test::each_eternity([&](auto time) {
        auto failed =
            pool.submit({.retry = {.max_attempts = 2, .backoff = time, .max_backoff = time}},
                        [] { throw std::runtime_error("again"); });
        CHECK(pool.apply(test::add, 1, 2) == 3);
        CHECK(test::eventually([&] { return pool.stats().retried > 0; }));
        CHECK_FALSE(failed.ready());
        CHECK(failed.cancel());
    });
}

TEST_CASE("a pool's options take each time", "[pool][timeout][options]") {
    auto method = GENERATE(from_range(test::methods()));
    test::each_eternity([&](auto time) {
        mp::Pool pool({.processes = 1,
                       .start_method = method,
                       .max_age = time,
                       .idle_timeout = time,
                       .task = {.timeout = time},
                       .stop_grace = 0s,
                       .terminate_grace = time,
                       .leave_grace = time});
        int worker = pool.apply(test::own_pid);
        CHECK(pool.apply(test::add, 1, 2) == 3);
        CHECK(pool.apply(test::own_pid) == worker);
    });
    auto refused = [](const mp::PoolOptions& options) {
        CHECK_THROWS_AS(mp::Pool(options), std::invalid_argument);
    };
    auto past = std::chrono::hours::min();
    refused({.processes = 1, .max_age = past});
    refused({.processes = 1, .idle_timeout = past});
    refused({.processes = 1, .stop_grace = past});
    refused({.processes = 1, .terminate_grace = past});
    refused({.processes = 1, .leave_grace = past});
    CHECK_THROWS_AS(mp::PoolOptions{.max_age = test::Seconds(test::kNaN)}, std::invalid_argument);
}

TEST_CASE("a task that is asked to stop has for ever to heed it", "[pool][timeout][stop]") {
    test::each_eternity([](auto time) {
        mp::Pool pool({.processes = 1, .stop_grace = time});
        int worker = pool.apply(test::own_pid);
        auto late = pool.submit({.timeout = 1ms}, [] {
            while (!mp::this_task::stop_requested()) std::this_thread::yield();
        });
        CHECK_THROWS_AS(late.get(), mp::TaskTimeout);
        CHECK(pool.apply(test::own_pid) == worker);
    });
}

}  // namespace timeout_cases_test
