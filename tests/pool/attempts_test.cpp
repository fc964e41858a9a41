// What the error of a task that was retried says of its attempts.
#include <signal.h>

#include <stdexcept>
#include <string>
#include <vector>

#include <sidestep/remote_error.hpp>

#include "both_pools.hpp"
#include "policy_support.hpp"

namespace attempts_test {

namespace mp = sidestep;
using Catch::Contains;
using test::error_of;
using test::get;
using test::numbers;
using namespace std::chrono_literals;

namespace {

// The first attempt throws, all others take until they are asked to stop.
int throw_then_stall() {
    if (mp::this_task::attempt() == 1) throw std::runtime_error("not yet");
    (void)test::eventually([] { return mp::this_task::stop_requested(); });
    return 0;
}
int die_at_three(int x) {
    if (x == 3) test::die(SIGKILL);
    return x;
}
int throw_at_three(int x) {
    if (x == 3) throw std::domain_error("three");
    return x;
}
std::size_t fill(std::size_t bytes) {
    std::vector<char> memory(bytes, 'x');
    (void)test::eventually([] { return mp::this_task::stop_requested(); });
    return memory.size();
}
// The traceback of what get() throws.
template <class Get>
std::string traceback_of(Get get) {
    try {
        (void)get();
    } catch (const std::domain_error& error) {
        return mp::remote_traceback(error);
    }
    throw std::runtime_error("there was no error");
}

}  // namespace

TEMPLATE_TEST_CASE("a timeout says which attempt came to it", "[pool][both][retry][attempts]",
                   test::Processes, test::Threads) {
    TestType t;
    mp::TaskOptions options{.timeout = 50ms, .retry = {.max_attempts = 2}};
    auto error = error_of<mp::TaskTimeout>(t.pool.submit(options, throw_then_stall));
    CHECK(error.attempts() == 2);
    CHECK_THAT(error.what(), Contains(", after 2 attempts") && !Contains("Retry::"));
    // A ThreadPool runs nothing again that was late.
    options.retry.max_attempts = 3;
    auto other = error_of<mp::TaskTimeout>(t.pool.submit(options, throw_then_stall));
    if constexpr (std::is_same_v<TestType, test::Threads>) {
        CHECK(other.attempts() == 2);
        CHECK_THAT(other.what(), Contains(", after 2 of 3 attempts"));
    } else {
        CHECK(other.attempts() == 3);
        CHECK_THAT(other.what(), Contains(", after 3 attempts"));
    }
    mp::MapOptions of_map{.task = options};
    auto stalls = [](int) { return throw_then_stall(); };
    for (auto& item : t.pool.imap(stalls, numbers(1), of_map).outcomes())
        CHECK_THROWS_WITH(item.value(), Contains("attempts"));
}

TEST_CASE("an item that is late in a thread says which of its own attempts that was",
          "[pool][thread_pool][retry][attempts]") {
    mp::ThreadPool pool({.threads = 1});
    auto stalls_at_three = [](int) {
        if (mp::this_task::attempt() < 3) throw std::domain_error("again");
        (void)test::eventually([] { return mp::this_task::stop_requested(); });
        return 0;
    };
    mp::MapOptions options{.task = {.timeout = 20ms, .retry = {.max_attempts = 5}}};
    for (auto& item : pool.imap(stalls_at_three, numbers(1), options).outcomes())
        CHECK_THROWS_WITH(item.value(), Contains(", after 3 attempts"));
}

TEST_CASE("a task that costs workers says after how many attempts, and which option ended them",
          "[pool][retry][attempts]") {
    mp::Pool pool(test::with_each_method());
    auto run = [&](const mp::Retry& retry) {
        return error_of<mp::WorkerLost>(pool.submit({.retry = retry}, test::die, SIGKILL));
    };
    auto once = run({});
    CHECK(once.attempts() == 1);
    CHECK_THAT(once.what(), !Contains("attempt"));
    auto all = run({.max_attempts = 3, .max_crashes = 9});
    CHECK(all.attempts() == 3);
    CHECK_THAT(all.what(), Contains(", after 3 attempts;"));
    auto poison = run({.max_attempts = 5});
    CHECK(poison.attempts() == 2);
    CHECK_THAT(poison.what(),
               Contains(", after 2 of 5 attempts (no more: Retry::max_crashes is 2);"));
    CHECK_THAT(run({.max_attempts = 5, .max_crashes = 1}).what(),
               Contains(", after 1 of 5 attempts (no more: Retry::max_crashes is 1);"));
    auto not_again = [](const std::exception_ptr& error) {
        try {
            std::rethrow_exception(error);
        } catch (const mp::TaskError& e) {
            return e.attempts() < 2;
        }
    };
    auto judged = run({.max_attempts = 5, .max_crashes = 5, .when = not_again});
    CHECK(judged.attempts() == 2);
    CHECK_THAT(judged.what(), Contains(", after 2 of 5 attempts;"));
}

TEST_CASE("an item of a map says how often it was run", "[pool][retry][attempts]") {
    mp::Pool pool(test::with_each_method());
    mp::MapOptions options{.chunksize = 8,
                           .task = {.retry = {.max_attempts = 9, .max_crashes = 3}}};
    std::vector<std::string> errors;
    unsigned attempts = 0;
    for (auto& item : pool.imap(die_at_three, numbers(8), options).outcomes()) {
        try {
            const int value = item.value();
            CHECK(value == static_cast<int>(item.index()));
        } catch (const mp::WorkerLost& error) {
            errors.emplace_back(error.what());
            attempts = error.attempts();
        }
    }
    REQUIRE(errors.size() == 1);
    CHECK(attempts == 3);
    CHECK_THAT(errors[0],
               Contains("item 3") &&
                   Contains(", after 3 of 9 attempts (no more: Retry::max_crashes is 3);"));
}

TEST_CASE("a task that is too large says after how many attempts, and which option ended them",
          "[pool][retry][attempts][memory]") {
    mp::Pool pool(test::with_each_method());
    mp::TaskOptions options{.memory_limit = std::size_t(128) << 20, .retry = {.max_attempts = 4}};
    auto once = error_of<mp::OutOfMemory>(pool.submit(options, fill, std::size_t(200) << 20));
    CHECK(once.attempts() == 1);
    CHECK_THAT(once.what(),
               Contains(", after 1 of 4 attempts (no more: Retry::max_out_of_memory is 1)"));
    options.retry.max_out_of_memory = 4;
    auto all = error_of<mp::OutOfMemory>(pool.submit(options, fill, std::size_t(200) << 20));
    CHECK(all.attempts() == 4);
    CHECK_THAT(all.what(), Contains(", after 4 attempts:"));
}

TEST_CASE("of what a task threw itself the traceback has the attempt", "[pool][retry][attempts]") {
    mp::Pool pool(test::with_each_method());
    auto thrice = pool.submit({.retry = {.max_attempts = 3}}, throw_at_three, 3);
    CHECK_THAT(traceback_of([&] { return get(thrice); }), Contains("in task 1, attempt 3\n"));
    auto once = pool.submit(throw_at_three, 3);
    CHECK_THAT(traceback_of([&] { return get(once); }),
               Contains("in task 2\n") && !Contains("attempt"));
    mp::MapOptions options{.chunksize = 4, .task = {.retry = {.max_attempts = 2}}};
    for (auto& item : pool.imap(throw_at_three, numbers(4), options).outcomes()) {
        if (item.index() == 3)
            CHECK_THAT(traceback_of([&] { return item.value(); }), Contains(", attempt 2\n"));
        else
            CHECK(item.value() == static_cast<int>(item.index()));
    }
}

}  // namespace attempts_test
