// Retry: which failures, how often, when, and in which place.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <mutex>
#include <thread>
#include <vector>

#include "policy_support.hpp"
#include "pool_cases.hpp"

namespace retry_test {

namespace mp = sidestep;
using test::error_of;
using test::get;
using test::kCount;
using test::kGate;
using test::kTell;
using test::methods;
using namespace std::chrono_literals;

namespace {

struct Passing : std::runtime_error {
    explicit Passing(const std::string& text) : std::runtime_error(text) {}
};
[[maybe_unused]] const bool registered = mp::register_exception<Passing>();

int throw_either(const std::string& path, bool passing) {
    test::bump(path, kCount);
    if (passing) throw Passing("passing");
    throw std::domain_error("for good");
}
// Stores when each attempt began, in nanoseconds.
int log_attempt(const std::string& path) {
    test::SharedWords::Word* words = test::SharedWords::attach(path);
    words[mp::this_task::attempt()] =
        static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    throw std::domain_error("again");
}
bool is_passing(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const Passing&) {
        return true;
    } catch (...) {
        return false;
    }
}

}  // namespace

TEST_CASE("a task is run again until it succeeds, and knows which attempt it is", "[pool][retry]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2, .start_method = method});
    auto f = pool.submit({.retry = {.max_attempts = 5}}, test::fail_first, words.path(), 3u);
    CHECK(get(f) == 4);
    CHECK(words[kCount] == 4);
    CHECK(pool.apply([] { return mp::this_task::attempt(); }) == 1);
    CHECK(mp::this_task::attempt() == 0);
}

TEST_CASE("the last failure is the task's", "[pool][retry]") {
    auto method = GENERATE(from_range(methods()));
    unsigned attempts = GENERATE(0u, 1u, 2u, 3u);
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    auto f =
        pool.submit({.retry = {.max_attempts = attempts}}, test::fail_first, words.path(), 99u);
    unsigned runs = std::max(attempts, 1u);  // 0: the pool's default, which is once
    CHECK(error_of<std::domain_error>(f).what() == "attempt " + std::to_string(runs));
    CHECK(words[kCount] == runs);
}

TEST_CASE("retries are a pool's default, and a task's own go before them", "[pool][retry]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords), others(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method, .task = {.retry = {.max_attempts = 3}}});
    CHECK(get(pool.submit(test::fail_first, words.path(), 2u)) == 3);
    auto once = pool.submit({.retry = {.max_attempts = 1}}, test::fail_first, others.path(), 1u);
    CHECK_THROWS_AS(get(once), std::domain_error);
    CHECK(get(pool.submit({.timeout = 1h}, test::fail_first, words.path(), 4u)) == 2);  // inherited
}

TEST_CASE("Retry::when decides by the error", "[pool][retry][when]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1,
                   .start_method = method,
                   .task = {.retry = {.max_attempts = 3, .when = is_passing}}});
    CHECK_THROWS_AS(get(pool.submit(throw_either, words.path(), false)), std::domain_error);
    CHECK(words[kCount] == 1);
    CHECK_THROWS_AS(get(pool.submit(throw_either, words.path(), true)), Passing);
    CHECK(words[kCount] == 4);
    std::atomic<int> asked{0};
    auto throws = [&](const std::exception_ptr&) -> bool {
        ++asked;
        throw std::runtime_error("I cannot tell");
    };
    auto f = pool.submit({.retry = {.max_attempts = 3, .when = throws}}, throw_either, words.path(),
                         true);
    CHECK_THROWS_AS(get(f), Passing);  // then no
    CHECK(asked == 1);
}

TEST_CASE("Retry::when may use the pool, and the pool's end does not wait for it for ever",
          "[pool][retry][when]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    std::atomic<bool> asked{false}, go_on{false};
    mp::Pool pool({.processes = 1, .start_method = method});
    auto asks_pool = [&](const std::exception_ptr&) { return pool.apply(test::add, 1, 2) == 3; };
    auto f = pool.submit({.retry = {.max_attempts = 2, .when = asks_pool}}, test::fail_first,
                         words.path(), 1u);
    CHECK(get(f) == 2);
    auto slow = [&](const std::exception_ptr&) {
        asked = true;
        return test::eventually([&] { return go_on.load(); });
    };
    auto judged =
        pool.submit({.retry = {.max_attempts = 2, .when = slow}}, throw_either, words.path(), true);
    auto other =
        pool.submit({.retry = {.max_attempts = 2, .when = slow}}, throw_either, words.path(), true);
    CHECK(test::eventually([&] { return asked.load(); }));
    CHECK(judged.cancel());  // while it is being judged
    CHECK_THROWS_AS(get(judged), mp::CancelledError);
    pool.terminate();
    go_on = true;
    pool.join();
    CHECK_THROWS(get(other));
}

PROCESSES_CASE("Tasks", "a task that costs workers is run again, up to the poison limit",
               "[retry][crash]", "without workers, and in threads, a crash ends the program",
               "without workers, and in threads, a crash ends the program") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2, .start_method = method});
    auto run = [&](mp::Retry retry, std::uint64_t crashes) {
        words[kCount] = 0;
        return pool.submit({.retry = retry}, test::crash_first, words.path(), crashes);
    };
    CHECK(get(run({.max_attempts = 5}, 1)) == 2);
    CHECK_THROWS_AS(get(run({.max_attempts = 5}, 99)), mp::WorkerLost);
    CHECK(words[kCount] == 2);  // the default
    CHECK(get(run({.max_attempts = 5, .max_crashes = 4}, 3)) == 4);
    CHECK_THROWS_AS(get(run({.max_attempts = 5, .max_crashes = 4}, 99)), mp::WorkerLost);
    CHECK(words[kCount] == 4);
    CHECK_THROWS_AS(get(run({.max_attempts = 2, .max_crashes = 99}, 99)), mp::WorkerLost);
    CHECK(words[kCount] == 2);  // attempts count too
    for (unsigned none : {0u, 1u}) {
        CHECK_THROWS_AS(get(run({.max_attempts = 5, .max_crashes = none}, 1)), mp::WorkerLost);
        CHECK(words[kCount] == 1);
    }
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
}

TEST_CASE("a task that costs many workers in a row does not break the pool",
          "[pool][retry][crash]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    mp::Retry retry{.max_attempts = 20, .max_crashes = 20};
    CHECK(get(pool.submit({.retry = retry}, test::crash_first, words.path(), 15u)) == 16);
    CHECK_THROWS_AS(get(pool.submit({.retry = retry}, test::die, SIGKILL)), mp::WorkerLost);
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
}

TEST_CASE("the pauses between attempts grow, within their limits", "[pool][retry][backoff]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    mp::Retry retry{
        .max_attempts = 5, .backoff = 8ms, .factor = 3, .max_backoff = 40ms, .jitter = 0.5};
    CHECK_THROWS_AS(get(pool.submit({.retry = retry}, log_attempt, words.path())),
                    std::domain_error);
    std::uint64_t expected_ms[] = {0, 0, 8, 24, 40, 40};
    for (std::size_t attempt = 2; attempt <= 5; ++attempt)
        CHECK(words[attempt] - words[attempt - 1] >= expected_ms[attempt] * 1'000'000 / 2);
    mp::Retry exact{.max_attempts = 2, .backoff = 20ms, .jitter = 0};
    CHECK_THROWS_AS(get(pool.submit({.retry = exact}, log_attempt, words.path())),
                    std::domain_error);
    CHECK(words[2] - words[1] >= 20'000'000);
    CHECK(test::becomes_quiet());
}

TEST_CASE("a task that pauses holds up no other, and can be cancelled", "[pool][retry][backoff]") {
    auto method = GENERATE(from_range(methods()));
    auto pause = GENERATE(std::chrono::nanoseconds(1h), std::chrono::nanoseconds::max());
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    mp::TaskOptions options{.retry = {.max_attempts = 2,
                                      .backoff = pause,
                                      .max_backoff = pause,
                                      .jitter = pause == 1h ? 0.5 : 1}};
    auto paused = pool.submit(options, throw_either, words.path(), true);
    REQUIRE(test::eventually([&] { return words[kCount] == 1; }));
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
    if (pause == 1h) CHECK_FALSE(paused.ready());
    CHECK_FALSE(paused.running());
    CHECK(paused.cancel());
    CHECK_THROWS_AS(get(paused), mp::CancelledError);
    CHECK(words[kCount] == 1);
    CHECK(test::becomes_quiet());
}

TEST_CASE("the end of a pool ends a pause", "[pool][retry][backoff]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Future<int> paused, dropped;
    mp::TaskOptions options{
        .retry = {.max_attempts = 2, .backoff = 1h, .max_backoff = 1h, .jitter = 0}};
    {
        mp::Pool pool({.processes = 1, .start_method = method});
        paused = pool.submit(options, throw_either, words.path(), true);
        get(pool.submit(test::add, 1, 2));  // behind it: its failure is known now
        pool.terminate();
        pool.join();
    }
    CHECK_THROWS_AS(get(paused), mp::CancelledError);
    {
        mp::Pool pool({.processes = 1, .start_method = method});
        dropped = pool.submit(options, throw_either, words.path(), true);
        get(pool.submit(test::add, 1, 2));
        pool.shutdown({.cancel_futures = true});  // it has not begun again
    }
    CHECK_THROWS_AS(get(dropped), mp::CancelledError);
}

TEST_CASE("a pool that is closed still runs again what it had taken", "[pool][retry]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2, .start_method = method});
    mp::Retry retry{.max_attempts = 6, .max_crashes = 6, .backoff = 5ms};
    auto fails = pool.submit({.retry = retry}, test::fail_first, words.path(), 2u);
    pool.close();
    pool.join();
    CHECK(get(fails) == 3);
}

TEST_CASE("a task that is to be run again is cancelled while its worker is being stopped",
          "[pool][retry][cancel]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method, .stop_grace = 1h});
    // It is late, and so evicted; but its worker is at it until the gate opens.
    auto late = pool.submit({.timeout = 20ms, .retry = {.max_attempts = 2}}, test::wait_at,
                            words.path(), std::size_t(kTell), std::size_t(kGate));
    test::await(words[kTell]);
    REQUIRE(test::eventually([&] { return !late.running(); }));
    CHECK_FALSE(late.ready());
    CHECK(late.cancel());
    CHECK_THROWS_AS(get(late), mp::CancelledError);
    words[kTell] = 0;
    words[kGate] = 1;
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
    CHECK(words[kTell] == 0);  // it did not run again
}

TEST_CASE("a task that was asked to stop is not asked when it runs again in the same worker",
          "[pool][retry][stop]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method, .stop_grace = 1h});
    auto task = [](const std::string& path) {
        if (mp::this_task::attempt() == 1) return test::until_asked(path);
        return mp::this_task::stop_requested() ? -1 : static_cast<int>(getpid());
    };
    int worker = pool.apply(test::own_pid);
    auto f = pool.submit({.timeout = 1s, .retry = {.max_attempts = 5}}, task, words.path());
    CHECK(get(f) == worker);
    CHECK(words[kCount] == 100);
}

TEST_CASE("many tasks that fail at random all come through", "[pool][retry]") {
    auto method = GENERATE(from_range(methods()));
    constexpr std::size_t kTasks = 100;
    test::SharedWords words(kTasks);
    mp::Pool pool({.processes = 2,
                   .start_method = method,
                   .task = {.retry = {.max_attempts = 10, .max_crashes = 10}}});
    auto flaky = [](const std::string& path, std::size_t i) {
        std::uint64_t run = test::bump(path, i);
        if (run < i % 3) throw std::domain_error("flaky");
        if (i % 10 == 9 && run < 3) test::die(SIGKILL);
        return static_cast<std::uint64_t>(mp::this_task::attempt());
    };
    std::vector<mp::Future<std::uint64_t>> futures;
    for (std::size_t i = 0; i < kTasks; ++i) futures.push_back(pool.submit(flaky, words.path(), i));
    for (std::size_t i = 0; i < kTasks; ++i) {
        CHECK(get(futures[i]) == (i % 10 == 9 ? 4 : i % 3 + 1));
        CHECK(words[i] == get(futures[i]));
    }
}

}  // namespace retry_test
