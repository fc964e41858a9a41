// What Pool and ThreadPool have in common: one contract, run on both.
#include <poll.h>
#include <catch2/catch.hpp>

#include <chrono>
#include <set>
#include <string>
#include <vector>

#include "both_pools.hpp"
#include "pool_cases.hpp"
#include "pool_support.hpp"

namespace both_pools_test {

namespace mp = sidestep;
using test::Pools;
using test::Threads;
using namespace std::chrono_literals;
using test::numbers;

namespace {

int picky(int x) {
    if (x % 5 == 0) throw std::invalid_argument("no multiples of five");
    return x;
}

// Those with an odd number can be moved only.
class Halfhearted {
  public:
    explicit Halfhearted(int number = 0) : number_(number) {}
    Halfhearted(const Halfhearted& other) : number_(other.number_) { refuse_odd(); }
    Halfhearted(Halfhearted&&) = default;
    Halfhearted& operator=(Halfhearted&&) = default;

    int number() const { return number_; }
    template <class Archive>
    void save(Archive& archive) const {
        refuse_odd();
        archive(number_);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(number_);
    }

  private:
    void refuse_odd() const {
        if (number_ % 2 == 1) throw std::domain_error("an odd number stays where it is");
    }
    int number_;
};
int number_of(const Halfhearted& item) { return item.number(); }

}  // namespace

POOL_CASE("Tasks", "submit and apply give what a task returns, or throw what it throws", "[both]") {
    TestType t;
    CHECK(t.pool.submit(test::add, 1, 2).get() == 3);
    CHECK(t.pool.apply(test::add, 2, 3) == 5);
    CHECK(t.pool.apply_async(test::add, 3, 4).get() == 7);
    CHECK_THROWS_AS(t.pool.submit(picky, 5).get(), std::invalid_argument);
    auto failed = t.pool.submit(picky, 10);
    CHECK(failed.exception() != nullptr);
    CHECK_THAT(failed.describe(), Catch::Contains("no multiples of five"));
    CHECK(t.pool.submit(mp::bind(test::add, 4), 5).get() == 9);
    t.pool.submit([] {}).get();
}

POOL_CASE("Maps and streams", "maps and streams give all results, in order or as they come",
          "[both]") {
    TestType t;
    std::vector<long> squares = t.pool.map(test::square, numbers(1000));
    REQUIRE(squares.size() == 1000);
    CHECK(squares[999] == 999 * 999);
    CHECK(t.pool.map(test::square, std::vector<int>{}).empty());
    std::vector<std::pair<int, int>> pairs{{1, 2}, {3, 4}};
    CHECK(t.pool.starmap(test::add, pairs) == std::vector{3, 7});
    std::vector<long> in_order;
    for (long x : t.pool.imap(test::square, numbers(100), {.chunksize = 7})) in_order.push_back(x);
    REQUIRE(in_order.size() == 100);
    for (std::size_t i = 0; i < 100; ++i) CHECK(in_order[i] == static_cast<long>(i * i));
    std::multiset<long> seen;
    for (long x : t.pool.imap_unordered(test::square, numbers(100), {.window = 10})) seen.insert(x);
    CHECK(seen.size() == 100);
    CHECK(*seen.rbegin() == 99 * 99);
    CHECK_THROWS_AS(t.pool.map(picky, numbers(20)), std::invalid_argument);
    std::size_t failed = 0;
    for (auto& item : t.pool.imap(picky, numbers(20), {.chunksize = 3}).outcomes()) {
        failed += !item;
        CHECK(item.has_value() == (item.index() % 5 != 0));
    }
    CHECK(failed == 4);
    CHECK(t.pool.map_async(test::square, numbers(5)).get() == std::vector<long>{0, 1, 4, 9, 16});
    CHECK(t.pool.starmap_async(test::add, pairs).get() == std::vector{3, 7});
}

POOL_CASE("Maps and streams", "an item that cannot be copied, or sent, is that item's error alone",
          "[both][stream]") {
    TestType t;
    std::vector<Halfhearted> items;
    for (int i = 0; i < 20; ++i) items.emplace_back(i);
    mp::MapOptions options{.chunksize = GENERATE(1u, 7u, 100u)};
    auto check = [](auto outcomes) {
        std::set<std::size_t> seen;
        for (auto& item : outcomes) {
            seen.insert(item.index());
            if (item.index() % 2 == 0)
                CHECK(item.value() == static_cast<int>(item.index()));
            else
                CHECK_THROWS_AS(item.value(), std::domain_error);
        }
        CHECK(seen.size() == 20);
    };
    check(t.pool.imap(number_of, items, options).outcomes());
    check(t.pool.imap_unordered(number_of, items, options).outcomes());
}

POOL_CASE("Tasks", "callbacks are called, and wait() and as_completed() see what is done",
          "[both]") {
    TestType t;
    std::atomic<int> value{0}, errors{0};
    auto good = t.pool.submit(test::add, 20, 22).on_value([&](int v) { value = v; });
    auto bad = t.pool.submit(picky, 5).on_error([&](const std::exception_ptr&) { ++errors; });
    CHECK(test::eventually([&] { return value == 42 && errors == 1; }));
    std::vector<mp::Future<int>> futures;
    for (int i = 1; i < 5; ++i) futures.push_back(t.pool.submit(picky, i));
    std::set<int> seen;
    for (mp::Future<int>& f : mp::as_completed(futures)) seen.insert(f.get());
    CHECK(seen == std::set{1, 2, 3, 4});
    CHECK(mp::wait(futures).done.size() == 4);
}

POOL_CASE("Tasks", "a task that fails is run again", "[both][retry]") {
    TestType t;
    auto third_time = [](int x) {
        if (mp::this_task::attempt() < 3) throw std::runtime_error("not yet");
        return x + static_cast<int>(mp::this_task::attempt());
    };
    CHECK(t.pool.submit({.retry = {.max_attempts = 3}}, third_time, 10).get() == 13);
    CHECK_THROWS_AS(t.pool.submit({.retry = {.max_attempts = 2}}, third_time, 10).get(),
                    std::runtime_error);
    auto never = [](const std::exception_ptr&) { return false; };
    CHECK_THROWS_AS(
        t.pool.submit({.retry = {.max_attempts = 9, .when = never}}, third_time, 10).get(),
        std::runtime_error);
    auto throws = [](const std::exception_ptr&) -> bool { throw std::runtime_error("no idea"); };
    mp::MapOptions undecided{.chunksize = 4,
                             .task = {.retry = {.max_attempts = 9, .when = throws}}};
    std::size_t failed = 0;
    for (auto& item : t.pool.imap(third_time, numbers(8), undecided).outcomes()) {
        CHECK_THROWS_WITH(item.value(), Catch::Contains("not yet"));
        ++failed;
    }
    CHECK(failed == 8);
    mp::MapOptions options{.chunksize = 4, .task = {.retry = {.max_attempts = 3}}};
    CHECK(t.pool.map(third_time, numbers(8), options) == std::vector{3, 4, 5, 6, 7, 8, 9, 10});
}

POOL_CASE("Tasks", "between two attempts there is a pause, in maps too", "[both][retry]") {
    TestType t;
    auto second_time = [](int x) {
        if (mp::this_task::attempt() < 2) throw std::runtime_error("not yet");
        return x;
    };
    mp::TaskOptions options{.retry = {.max_attempts = 2, .backoff = 30ms, .jitter = 0}};
    auto begin = std::chrono::steady_clock::now();
    CHECK(t.pool.submit(options, second_time, 7).get() == 7);
    CHECK(std::chrono::steady_clock::now() - begin >= 30ms);
    begin = std::chrono::steady_clock::now();
    CHECK(t.pool.map(second_time, numbers(1), {.task = options}) == numbers(1));
    CHECK(std::chrono::steady_clock::now() - begin >= 30ms);
}

POOL_CASE("Maps and streams", "options of a map that make no sense are refused", "[both]") {
    TestType t;
    CHECK_THROWS_WITH(t.pool.map(test::square, numbers(3), {.task = {.key = 1}}),
                      Catch::Contains("MapOptions::task.key"));
    CHECK_THROWS_AS(t.pool.map(test::square, numbers(3), {.task = {.timeout = -1s}}),
                    std::invalid_argument);
    CHECK_THROWS_AS(t.pool.submit({.retry = {.factor = 0.5}}, test::square, 1),
                    std::invalid_argument);
}

POOL_CASE("Tasks", "a finished task's callback is called at once, also when its pool is gone",
          "[both][callback]") {
    mp::Future<int> future;
    {
        TestType t;
        future = t.pool.submit(test::add, 1, 2);
        future.wait();
    }
    int value = 0;
    future.on_value([&](int v) { value = v; });
    CHECK(value == 3);
}

POOL_CASE("Maps and streams", "a stream that outlives its pool says so", "[both]") {
    auto t = std::make_unique<TestType>();
    mp::MapOptions options{
        .chunksize = 1,
        .task = {
            .retry = {.max_attempts = 2, .when = [](const std::exception_ptr&) { return true; }}}};
    auto stream = t->pool.imap(test::square, numbers(100), options);
    CHECK(*stream.begin() == 0);
    t.reset();
    auto drain = [&] {
        while (auto item = stream.next_outcome()) (void)item->value();
    };
    CHECK_THROWS_AS(drain(), std::logic_error);
}

POOL_CASE("Tasks", "a pool that is closed finishes what it has", "[both][shutdown]") {
    TestType t;
    CHECK_THROWS_AS(t.pool.join(), std::logic_error);
    auto future = t.pool.submit(test::add, 1, 2);
    t.pool.close();
    CHECK_THROWS_AS(t.pool.submit(test::add, 1, 2), std::logic_error);
    t.pool.join();
    CHECK(future.ready());
    CHECK(future.get() == 3);
    t.pool.shutdown();
}

POOL_CASE("Tasks", "the same seed gives the same random numbers", "[both][random]") {
    TestType t;
    auto draw = [](int) { return mp::this_task::random_seed(); };
    mp::Pool reference({.processes = 1});
    CHECK(t.pool.map(draw, numbers(20), {.chunksize = 3}) == reference.map(draw, numbers(20)));
    CHECK(mp::this_task::number() == 0);
    CHECK(mp::this_worker::index() == -1);
}

POOL_CASE("Tasks", "a pool that takes no tasks says why", "[both][lifecycle]") {
    TestType closed, terminated;
    closed.pool.close();
    CHECK_THROWS_WITH(closed.pool.submit(test::add, 1, 2),
                      "the pool is closed: it takes no tasks after close()");
    terminated.pool.terminate();
    CHECK_THROWS_WITH(terminated.pool.submit(test::add, 1, 2),
                      "the pool is terminated: it takes no tasks after terminate()");
    closed.pool.join();
    terminated.pool.join();
}

}  // namespace both_pools_test
