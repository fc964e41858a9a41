// Maps and streams that end before their items do, in each kind of pool: by the first error, in
// time, or cancelled; and waits that end early.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <vector>

#include <catch2/catch.hpp>

#include "both_pools.hpp"
#include "paced.hpp"
#include "pool_cases.hpp"
#include "pool_support.hpp"

namespace early_end_test {

namespace mp = sidestep;
using namespace std::chrono_literals;
using test::Inline;
using test::numbers;
using test::Pools;
using test::Processes;
using test::Threads;

namespace {

bool rest(mp::Timeout time) { return mp::this_task::sleep_for(time); }  // style-ok: what is tested

// Item 0 sleeps for an hour, unless it is to stop; item 1 throws; the others count themselves.
struct Eventful {
    std::string path;
    bool first_sleeps = true;

    int operator()(int item) const {
        if (item == 0 && first_sleeps) rest(1h);
        if (item == 1) throw std::domain_error("item one");
        if (item > 1) test::bump(path, 0);
        return item;
    }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(path, first_sleeps);
    }
};
int sleep_long(int item) {
    if (item >= 2) rest(1h);
    return item;
}
int killed_at_one(int item) {
    if (item == 1) return test::die(SIGKILL);
    rest(1h);
    return item;
}
int at_second_attempt(int item) {
    if (mp::this_task::attempt() < 2) throw std::domain_error("not yet");
    return item;
}

// A longer time each time, until what is to be done by then was: nobody knows how busy the machine
// is.
template <class Try>
void check_with_some_deadline(Try done_by) {
    mp::Timeout deadline = 50ms;
    while (!done_by(deadline) && deadline < 60s) deadline = 2 * deadline.time();
    CHECK(deadline < 60s);
}

// Tasks that run, other than those that are being stopped; the pool's next ones run at once.
template <class Pool>
void check_usable(Pool& pool) {
    CHECK(pool.map(test::square, numbers(3)) == std::vector<long>{0, 1, 4});
    CHECK(test::eventually([&] { return pool.stats().running == 0; }));
    CHECK(pool.stats().waiting == 0);
}

}  // namespace

WORKERS_CASE("Maps and streams", "with fail_fast a map ends by an error whose turn has not come",
             "[early]", "without workers, too, fail_fast ends a map before its next chunk") {
    TestType t;
    test::SharedWords words(1);
    mp::MapOptions options{.chunksize = 1, .fail_fast = true};
    Eventful eventful{words.path()};
    CHECK_THROWS_WITH(t.pool.map(eventful, numbers(100), options), Catch::Contains("item one"));
    CHECK(words[0] < 20);  // as many as a map is ahead of its first item
    check_usable(t.pool);
    CHECK_THROWS_WITH(t.pool.map_async(eventful, numbers(100), options).get(),
                      Catch::Contains("item one"));
    check_usable(t.pool);
}

POOL_CASE("Maps and streams", "with fail_fast nothing of a chunk is begun after an error",
          "[early]") {
    TestType t;
    test::SharedWords words(1);
    mp::MapOptions options{.chunksize = 50, .fail_fast = true};
    Eventful eventful{words.path(), false};
    CHECK_THROWS_WITH(t.pool.map(eventful, numbers(50), options), Catch::Contains("item one"));
    CHECK(words[0] == 0);
    CHECK_THROWS_WITH(t.pool.map(eventful, numbers(50), {.chunksize = 50}),
                      Catch::Contains("item one"));
    CHECK(words[0] == 48);  // without it all are run
    check_usable(t.pool);
}

TEST_CASE("without workers, too, fail_fast ends a map before its next chunk", "[pool][early]") {
    Inline t;
    test::SharedWords words(1);
    Eventful eventful{words.path(), false};
    CHECK_THROWS_WITH(t.pool.map(eventful, numbers(50), {.chunksize = 1, .fail_fast = true}),
                      Catch::Contains("item one"));
    CHECK(words[0] == 0);
}

POOL_CASE("Maps and streams", "with fail_fast a stream's error is the last that comes", "[early]") {
    TestType t;
    test::SharedWords words(1);
    mp::MapOptions options{.chunksize = 1, .fail_fast = true};
    Eventful eventful{words.path(), false};
    auto check = [](auto stream) {
        std::size_t errors = 0;
        bool error_was_last = false;
        while (auto item = stream.next_outcome()) {
            error_was_last = !item->has_value();
            errors += error_was_last;
            if (error_was_last) CHECK(item->index() == 1);
        }
        CHECK(errors == 1);
        CHECK(error_was_last);
        CHECK(stream.ended());
    };
    check(t.pool.imap(eventful, numbers(40), options));
    check(t.pool.imap_unordered(eventful, numbers(40), options));
    check_usable(t.pool);
}

POOL_CASE("Maps and streams", "with fail_fast an item fails when its last attempt has", "[early]") {
    TestType t;
    auto options = [](unsigned attempts) {
        return mp::MapOptions{
            .chunksize = 3, .fail_fast = true, .task = {.retry = {.max_attempts = attempts}}};
    };
    CHECK(t.pool.map(at_second_attempt, numbers(10), options(2)) == numbers(10));
    CHECK_THROWS_AS(t.pool.map(at_second_attempt, numbers(10), options(1)), std::domain_error);
}

PROCESSES_CASE("Maps and streams", "with fail_fast a worker's death ends a map", "[early]",
               "without workers, and in threads, a crash ends the program",
               "without workers, and in threads, a crash ends the program") {
    Processes t;
    CHECK_THROWS_AS(t.pool.map(killed_at_one, numbers(10), {.chunksize = 1, .fail_fast = true}),
                    mp::WorkerLost);
    CHECK_THROWS_AS(t.pool.map(killed_at_one, numbers(1, 10), {.chunksize = 9, .fail_fast = true}),
                    mp::WorkerLost);
    check_usable(t.pool);
}

WORKERS_CASE("Maps and streams", "a map ends at its deadline", "[early]",
             "without workers a deadline is looked at between two chunks") {
    TestType t;
    auto late = [](auto call, std::uint64_t item) {
        try {
            call();
            FAIL("it came back with a result");
        } catch (const mp::TaskTimeout& timeout) {
            CHECK(timeout.item() == item);
            CHECK(timeout.timeout() == 50ms);
            CHECK_THAT(timeout.what(), Catch::Contains("sleep_long(int)) was not finished when "
                                                       "the deadline of its map came after 50 ms"));
        }
    };
    mp::MapOptions options{.chunksize = 1, .deadline = 50ms};
    late([&] { t.pool.map(sleep_long, numbers(2, 100), options); }, 0);
    late([&] { t.pool.map_async(sleep_long, numbers(2, 100), options).get(); }, 0);
    late([&] { t.pool.starmap(sleep_long, std::vector{std::tuple(7)}, options); }, 0);
    late([&] { t.pool.find_any(sleep_long, numbers(2, 9), options); }, 0);
    check_usable(t.pool);
    CHECK(t.pool.map(test::square, numbers(3), {.deadline = 1h}) == std::vector<long>{0, 1, 4});
}

#ifndef SIDESTEP_TEST_ANOTHER_HOST  // of a chunk that another host has, the first item is named
TEST_CASE("a deadline names the item of a chunk that was not finished", "[pool][early]") {
    Processes t;
    check_with_some_deadline([&](mp::Timeout deadline) {
        try {
            t.pool.map(sleep_long, numbers(10), {.chunksize = 10, .deadline = deadline});
        } catch (const mp::TaskTimeout& timeout) {
            return timeout.item() == 2 && timeout.task() > 0;
        }
        return false;
    });
}
#endif

WORKERS_CASE("Maps and streams", "what was finished before a stream's deadline is handed over",
             "[early][py:ExecutorTest.test_map_timeout]",
             "without workers a deadline is looked at between two chunks") {
    TestType t;
    auto values_until = [](auto stream) {
        std::vector<int> values;
        std::optional<mp::Outcome<int>> item;
        while ((item = stream.next_outcome()) && *item) values.push_back(item->value());
        REQUIRE(item);
        CHECK_THROWS_AS(item->value(), mp::TaskTimeout);
        CHECK_FALSE(stream.next_outcome());
        CHECK(stream.ended());
        return values;
    };
    const std::vector<int> both = {0, 1};
    check_with_some_deadline([&](mp::Timeout deadline) {
        mp::MapOptions options{.chunksize = 1, .deadline = deadline};
        auto ordered = values_until(t.pool.imap(sleep_long, numbers(10), options));
        auto unordered = values_until(t.pool.imap_unordered(sleep_long, numbers(10), options));
        std::sort(unordered.begin(), unordered.end());
        return ordered == both && unordered == both;
    });
    check_usable(t.pool);
}

TEST_CASE("without workers a deadline is looked at between two chunks", "[pool][early]") {
    Inline t;
    auto nap = [](int item) {
        rest(20ms);
        return item;
    };
    mp::MapOptions options{.chunksize = 1, .deadline = 50ms};
    CHECK_THROWS_AS(t.pool.map(nap, numbers(100'000), options), mp::TaskTimeout);
    CHECK_THROWS_AS(t.pool.map_async(nap, numbers(100'000), options).get(), mp::TaskTimeout);
    CHECK_THROWS_AS(t.pool.starmap(nap, std::vector(100'000, std::tuple(1)), options),
                    mp::TaskTimeout);
    auto is_nap = [](int item) {
        rest(20ms);
        return item < 0;
    };
    CHECK_THROWS_AS(t.pool.find_any(is_nap, numbers(100'000), options), mp::TaskTimeout);
    CHECK_THROWS_AS(t.pool.map_reduce(nap, std::plus<int>(), numbers(100'000), options),
                    mp::TaskTimeout);
    // What was finished is handed over, and then the item that was not, which is the last.
    auto stream = t.pool.imap(nap, numbers(100'000), options);
    int finished = 0;
    auto item = stream.next_outcome();
    for (; item && *item; item = stream.next_outcome()) CHECK(item->value() == finished++);
    REQUIRE(item);
    CHECK(item->index() == static_cast<std::size_t>(finished));
    try {
        (void)item->value();
    } catch (const mp::TaskTimeout& timeout) {
        CHECK(timeout.item() == item->index());
        CHECK(timeout.timeout() == 50ms);
        CHECK_THAT(timeout.what(),
                   Catch::Contains("when the deadline of its map came after 50 ms"));
    }
    CHECK_FALSE(stream.next_outcome());
    CHECK(stream.ended());
    check_usable(t.pool);
}

POOL_CASE("Maps and streams", "a deadline that makes no sense is refused", "[early]") {
    TestType t;
    mp::MapOptions options{.deadline = -1ms};
    const char* text =
        "MapOptions::deadline is negative; it is the time for the whole map, 0 is none";
    CHECK_THROWS_WITH(t.pool.map(test::square, numbers(3), options), text);
    CHECK_THROWS_WITH(t.pool.imap(test::square, numbers(3), options), text);
    CHECK_THROWS_WITH(t.pool.map_async(test::square, numbers(3), options), text);
    CHECK_THROWS_WITH(t.pool.map_reduce(test::square, std::plus<long>(), numbers(3), options),
                      text);
}

TEST_CASE("without workers next_for() runs what it hands over", "[pool][early]") {
    Inline t;
    auto ordered = t.pool.imap(test::square, numbers(3), {.chunksize = 1});
    auto unordered = t.pool.imap_unordered(test::square, numbers(3), {.chunksize = 1});
    for (long expected : {0, 1, 4}) {
        CHECK_FALSE(ordered.ended());
        CHECK(ordered.next_for(0ms)->value() == expected);
        CHECK(unordered.next_for(1h)->value() == expected);
    }
    CHECK_FALSE(ordered.next_for(1h));
    CHECK(ordered.ended());
    CHECK_FALSE(unordered.next_for(0ms));
    CHECK(unordered.ended());
}

WORKERS_CASE("Maps and streams", "next_for() comes back without a result that is not there",
             "[early]", "without workers next_for() runs what it hands over") {
    TestType t;
    test::SharedWords words(2);
    auto at_gate = mp::bind(test::wait_at, words.path(), std::size_t(0));
    auto ordered = t.pool.imap(at_gate, std::vector<std::size_t>{1});
    auto unordered = t.pool.imap_unordered(at_gate, std::vector<std::size_t>{1});
    CHECK_FALSE(ordered.next_for(1ms));
    CHECK_FALSE(unordered.next_for(0ms));
    CHECK_FALSE(ordered.ended());
    words[1] = 1;
    CHECK(ordered.next_for(1h)->value() == 1);
    CHECK(unordered.next_for(1h)->value() == 1);
    CHECK_FALSE(ordered.next_for(1h));
    CHECK(ordered.ended());
    CHECK_FALSE(unordered.next_for(1h));
    CHECK(unordered.ended());
}

WORKERS_CASE("Maps and streams", "map_async() is cancelled while it runs", "[early]",
             "map_async() is cancelled without workers: the item that runs is the last") {
    TestType t;
    test::SharedWords words(1);
    auto begun = [](const std::string& path, int item) {
        test::bump(path, 0);
        rest(1h);
        return item;
    };
    mp::Future<std::vector<int>> map =
        t.pool.map_async(mp::bind(begun, words.path()), numbers(100), {.chunksize = 1});
    test::await(words[0]);
    CHECK(map.cancel());
    CHECK(map.cancelled());
    CHECK_THROWS_AS(map.get(), mp::CancelledError);
    CHECK(map.cancel());
    check_usable(t.pool);
    t.pool.close();
    t.pool.join();  // nobody sleeps any more
    CHECK(words[0] < 20);
}

TEST_CASE("map_async() is cancelled without workers: the item that runs is the last",
          "[pool][early]") {
    Inline t;
    static std::atomic<int> begun, go_on;
    begun = go_on = 0;
    auto wait = [](int item) {
        ++begun;
        while (go_on == 0) std::this_thread::yield();
        return item;
    };
    auto map = t.pool.map_async(wait, numbers(100), {.chunksize = 1});
    CHECK(test::eventually([] { return begun == 1; }));
    CHECK(map.cancel());
    CHECK_THROWS_AS(map.get(), mp::CancelledError);
    go_on = 1;
    t.pool.close();
    t.pool.join();
    CHECK(begun == 1);
}

POOL_CASE("Maps and streams", "a map_async() that is done cannot be cancelled", "[early]") {
    TestType t;
    auto map = t.pool.map_async(test::square, numbers(3));
    map.wait();
    CHECK_FALSE(map.cancel());
    CHECK(map.get() == std::vector<long>{0, 1, 4});
}

WORKERS_CASE("Maps and streams", "cancel() ends a stream with what it runs", "[early]",
             "without workers a stream that is cancelled begins nothing more") {
    TestType t;
    // A worker that starts late may begin with what was submitted later, and that goes on for ever.
    if constexpr (std::is_same_v<decltype(t.pool), mp::Pool>)
        CHECK(test::eventually([&] {
            const auto workers = t.pool.stats().workers;
            return std::all_of(workers.begin(), workers.end(),
                               [](const auto& worker) { return worker.start > 0ns; });
        }));
    auto check = [](auto stream) {
        CHECK(stream.next_outcome()->has_value());
        stream.cancel();
        CHECK(stream.ended());
        CHECK_FALSE(stream.next_outcome());
        stream.add(1);
        CHECK(stream.ended());
    };
    check(t.pool.imap(sleep_long, numbers(100), {.chunksize = 1}));
    check(t.pool.imap_unordered(sleep_long, numbers(100), {.chunksize = 1}));
    check_usable(t.pool);
}

TEST_CASE("outside of a task sleep_for just sleeps", "[pool][early]") {
    auto begin = std::chrono::steady_clock::now();
    CHECK(rest(20ms));
    CHECK(std::chrono::steady_clock::now() - begin >= 20ms);
    CHECK(rest(-1s));
    CHECK(rest(0s));
}

namespace {

bool rest_until_told(const std::string& path) {
    test::bump(path, 0);
    if (!rest(1h)) test::bump(path, 1);
    return rest(1h);
}
template <class Pool>
void check_told(Pool& pool) {
    CHECK(pool.apply([] { return rest(1ms); }));
    test::SharedWords words(2);
    auto late = pool.submit({.timeout = 20ms}, rest_until_told, words.path());
    CHECK_THROWS_AS(late.get(), mp::TaskTimeout);
    CHECK(test::eventually([&] { return words[1] == 1; }));
    auto cancelled = pool.submit(rest_until_told, words.path());
    CHECK(test::eventually([&] { return words[0] == 2; }));
    cancelled.cancel();
    CHECK(test::eventually([&] { return words[1] == 2; }));
    check_usable(pool);
}

}  // namespace

TEST_CASE("sleep_for ends when the task is to stop, and the worker is kept", "[pool][early]") {
    mp::Pool pool(
        {.processes = 1, .start_method = GENERATE(from_range(test::methods())), .stop_grace = 1h});
    int pid = pool.apply(test::own_pid);
    check_told(pool);
    CHECK(pool.apply(test::own_pid) == pid);
}

TEST_CASE("sleep_for ends when a thread's task is to stop", "[pool][early]") {
    Threads t;
    check_told(t.pool);
}

WORKERS_CASE("Maps and streams",
             "a deadline that passes between two results ends a stream, whatever was pulled",
             "[early]", "without workers a deadline is looked at between two chunks") {
    TestType t;
    test::Paced input(1000, [](int) { return true; });
    auto results = t.pool.imap(test::square, input, {.chunksize = 1, .deadline = 100ms});
    const auto over = std::chrono::steady_clock::now() + 100ms;
    auto look_at_all = [&] {
        for (long result : results) {
            CHECK(result >= 0);
            while (std::chrono::steady_clock::now() <= over) std::this_thread::yield();
        }
    };
    CHECK_THROWS_AS(look_at_all(), mp::TaskTimeout);
}

}  // namespace early_end_test
