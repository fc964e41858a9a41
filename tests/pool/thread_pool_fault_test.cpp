// ThreadPool: what cannot be copied, retries, timeouts and failing initializers.
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <latch>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/thread_pool.hpp>

#include "pool_support.hpp"

namespace thread_pool_fault_test {

namespace mp = sidestep;
using namespace std::chrono_literals;
using test::numbers;

namespace {

using Box = std::unique_ptr<int>;
std::vector<Box> boxes(int count) {
    std::vector<Box> made;
    for (int i = 0; i < count; ++i) made.push_back(std::make_unique<int>(i));
    return made;
}
int open_all(std::vector<Box> all) {
    int sum = 0;
    for (Box& box : all) sum += *box;
    return sum;
}
int open_box(Box box) { return *box; }
int until_asked() {
    while (!mp::this_task::stop_requested()) poll(nullptr, 0, 1);
    return 1;
}

// The most of them that ran at the same time.
class Crowd {
  public:
    void visit() {
        int now = ++inside_;
        for (int most = most_; now > most && !most_.compare_exchange_weak(most, now);) {
        }
        poll(nullptr, 0, 1);
        --inside_;
    }
    int most() const { return most_; }

  private:
    std::atomic<int> inside_{0}, most_{0};
};

}  // namespace

TEST_CASE("a task with an argument that cannot be copied has one attempt",
          "[pool][thread_pool][retry]") {
    mp::TaskOptions twice{.retry = {.max_attempts = 2}};
    mp::ThreadPool pool({.threads = 1});
    CHECK_THROWS_AS(pool.submit(twice, open_box, std::make_unique<int>(7)), std::invalid_argument);
    CHECK_THROWS_AS(pool.submit(twice, open_all, boxes(3)), std::invalid_argument);
    CHECK_THROWS_WITH(pool.imap(open_box, boxes(3), {.task = twice}),
                      Catch::Contains("cannot be copied"));
    CHECK(pool.submit(open_box, std::make_unique<int>(7)).get() == 7);
    mp::ThreadPool stubborn({.threads = 1, .task = twice});
    CHECK_THROWS_AS(stubborn.submit(open_all, boxes(3)), std::invalid_argument);
    CHECK(stubborn.submit({.retry = {.max_attempts = 1}}, open_all, boxes(3)).get() == 3);
}

TEST_CASE("containers of what cannot be copied are arguments, items and results",
          "[pool][thread_pool][move_only]") {
    mp::ThreadPool pool({.threads = 2});
    CHECK(pool.submit(open_all, boxes(4)).get() == 6);
    CHECK(*pool.submit(boxes, 3).get()[2] == 2);
    CHECK(pool.map(open_box, boxes(4)) == std::vector{0, 1, 2, 3});
    std::vector<std::vector<Box>> items;
    items.push_back(boxes(2));
    items.push_back(boxes(3));
    CHECK(pool.map(open_all, std::move(items)) == std::vector{1, 3});
    CHECK(*pool.map(boxes, numbers(3))[2][1] == 1);
    CHECK(*pool.map_async([](int n) { return std::make_unique<int>(n); }, numbers(3)).get()[1] ==
          1);
}

TEST_CASE("an item is the same in each attempt", "[pool][thread_pool][retry]") {
    mp::ThreadPool pool({.threads = 1});
    std::vector<std::string> items{std::string(100, 'a'), std::string(100, 'b')};
    auto picky = [](std::string text) {
        if (mp::this_task::attempt() < 3) throw std::runtime_error("not yet");
        return text;
    };
    CHECK(pool.map(picky, items, {.task = {.retry = {.max_attempts = 3}}}) == items);
}

TEST_CASE("the timeout of a thread says what it was, and what it does",
          "[pool][thread_pool][timeout]") {
    mp::ThreadPool pool({.threads = 1});
    auto check = [](auto& failing) {
        try {
            (void)failing.get(test::kPatience);
            FAIL("there was no timeout");
        } catch (const mp::TaskTimeout& error) {
            CHECK(error.timeout() == 20ms);
            CHECK_THAT(error.what(), Catch::Contains("until_asked") &&
                                         Catch::Contains("of 20 ms") &&
                                         Catch::Contains("a thread cannot be stopped") &&
                                         !Catch::Contains("worker"));
        }
    };
    auto single = pool.submit({.timeout = 20ms}, until_asked);
    check(single);
    auto lambda = pool.submit(
        {.timeout = 20ms}, [](int (*f)()) { return f(); }, until_asked);
    CHECK_THROWS_WITH(lambda.get(), Catch::Contains("task 2 (") && !Catch::Contains("() ran"));
}

TEST_CASE("a timeout is each attempt's: the pause between two is not part of it",
          "[pool][thread_pool][timeout][retry]") {
    mp::ThreadPool pool({.threads = 2});
    mp::TaskOptions options{
        .timeout = 2s,
        .retry = {.max_attempts = 2, .backoff = 2500ms, .max_backoff = 2500ms, .jitter = 0}};
    auto second_time = [](int x) {
        if (mp::this_task::attempt() == 1) throw std::runtime_error("not yet");
        return x;
    };
    auto single = pool.submit(options, second_time, 1);
    CHECK(pool.map(second_time, std::vector{2}, {.task = options}) == std::vector{2});
    CHECK(single.get(test::kPatience) == 1);
}

TEST_CASE("an initializer that fails in two threads at once breaks the pool once",
          "[pool][thread_pool][initializer]") {
    std::latch both(2);
    mp::ThreadPool pool({.threads = 2, .initializer = [&] {
                             both.arrive_and_wait();
                             throw std::runtime_error("no license");
                         }});
    auto first = pool.submit([] {});
    auto second = pool.submit([] {});
    CHECK_THROWS_WITH(first.get(test::kPatience), Catch::Contains("no license"));
    CHECK_THROWS_WITH(second.get(test::kPatience), Catch::Contains("no license"));
}

TEST_CASE("a broken thread pool can be joined, though nobody closed it, and takes nothing",
          "[pool][thread_pool][initializer]") {
    mp::ThreadPool pool(
        {.threads = 1, .initializer = [] { throw std::runtime_error("no license"); }});
    CHECK_THROWS_AS(pool.submit([] {}).get(test::kPatience), mp::BrokenPool);
    pool.join();
    CHECK_THROWS_AS(pool.submit([] {}), mp::BrokenPool);
}

TEST_CASE("threads that were started for waiting ones run nothing beside the others",
          "[pool][thread_pool][nested]") {
    mp::ThreadPool pool({.threads = 1});
    auto inner = [&] { return pool.submit([] { return 1; }).get(); };
    auto outer = [&] { return pool.submit(inner).get(); };
    CHECK(pool.submit(outer).get(test::kPatience) == 1);
    CHECK(pool.threads() == 3);
    Crowd crowd;
    pool.map([&](int) { crowd.visit(); }, numbers(100), {.chunksize = 1});
    CHECK(crowd.most() == 1);
    CHECK(pool.submit(outer).get(test::kPatience) == 1);  // they are used when they are needed
    CHECK(pool.threads() == 3);
}

TEST_CASE("tasks with a key get their turn beside tasks that wait for others",
          "[pool][thread_pool][nested]") {
    mp::ThreadPool pool({.threads = 2});
    std::vector<mp::Future<int>> futures;
    for (std::uint64_t i = 1; i <= 300; ++i) {
        futures.push_back(pool.submit([&] { return pool.submit([] { return 1; }).get(); }));
        futures.push_back(pool.submit({.key = i}, [] { return 1; }));
    }
    CHECK(std::all_of(futures.begin(), futures.end(),
                      [](auto& f) { return f.get(test::kPatience) == 1; }));
}

}  // namespace thread_pool_fault_test
