// ThreadPool: many tiny tasks at once. Threads then take several at a time and nobody is woken for
// each (thread_team.cpp, T2 to T4): what a pool promises holds nevertheless.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/thread_pool.hpp>

#include "pool_support.hpp"

namespace thread_pool_burst_test {

namespace mp = sidestep;
using namespace std::chrono_literals;

namespace {

long same(long x) { return x; }

std::vector<mp::Future<long>> burst(mp::ThreadPool& pool, long tasks) {
    std::vector<mp::Future<long>> futures;
    for (long i = 0; i < tasks; ++i) futures.push_back(pool.submit(same, i));
    return futures;
}

// Behind a burst there is a task that waits until it is let go, and behind that another burst.
struct Stuck {
    explicit Stuck(
        mp::ThreadPool& pool, std::function<void()> each = [] {}) {
        before = burst(pool, 3000);
        stuck = pool.submit([go = go] { go->wait(); });
        for (int i = 0; i < 300; ++i) behind.push_back(pool.submit(each));
        REQUIRE(test::eventually([&] { return stuck.running(); }));
    }
    ~Stuck() { let_go(); }
    void let_go() {
        if (!go->try_wait()) go->count_down();
    }

    std::shared_ptr<std::latch> go = std::make_shared<std::latch>(1);
    std::vector<mp::Future<long>> before;
    mp::Future<void> stuck;
    std::vector<mp::Future<void>> behind;
};

}  // namespace

// All futures of a burst are held: what one takes is what counts. (A pool's own memory is of 128
// bytes each; the arguments lie in it.)
static_assert(sizeof(mp::detail::CallJob<long, long (*)(long), long>) <= 128);

TEST_CASE("a burst of tiny tasks from many threads: each runs once, and is counted",
          "[pool][thread_pool][burst][stats]") {
    unsigned threads = GENERATE(1u, 2u, 4u);
    constexpr long kTasks = 5000;
    constexpr int kUsers = 4;
    mp::ThreadPool pool({.threads = threads});
    std::atomic<long> sum{0};
    std::vector<std::thread> users;
    for (int user = 0; user < kUsers; ++user)
        users.emplace_back([&] {
            auto futures = burst(pool, kTasks);
            for (auto& future : futures) sum += future.get();
        });
    for (std::thread& user : users) user.join();
    CHECK(sum == kUsers * kTasks * (kTasks - 1) / 2);
    REQUIRE(test::eventually([&] { return pool.stats().completed == kUsers * kTasks; }));
    mp::PoolStats stats = pool.stats();
    CHECK(stats.submitted == kUsers * kTasks);
    CHECK(stats.waiting == 0);
    CHECK(stats.running == 0);
    CHECK(stats.failed == 0);
    CHECK(stats.run.count() == kUsers * kTasks);
    CHECK(stats.wait.count() >= kUsers * kTasks / 16);
    CHECK(stats.wait.count() <= kUsers * kTasks);
    CHECK(stats.slowest.size() == 10);
    CHECK(std::is_sorted(stats.slowest.begin(), stats.slowest.end(),
                         [](const auto& a, const auto& b) { return a.duration > b.duration; }));
}

TEST_CASE("tasks that wait for each other get a thread each, also after a burst",
          "[pool][thread_pool][burst]") {
    mp::ThreadPool pool({.threads = 4});
    for (int round = 0; round < 5; ++round) {
        auto tiny = burst(pool, 3000);
        std::latch all(4);
        std::vector<mp::Future<void>> futures;
        for (int i = 0; i < 4; ++i) futures.push_back(pool.submit([&] { all.arrive_and_wait(); }));
        for (auto& future : futures) REQUIRE(future.wait_for(60s));
    }
}

TEST_CASE("what lies behind a long task in a burst is run by the others",
          "[pool][thread_pool][burst]") {
    mp::ThreadPool pool({.threads = 2});
    Stuck burst(pool);
    for (auto& future : burst.behind) REQUIRE(future.wait_for(60s));
    CHECK(burst.stuck.running());
}

TEST_CASE("a higher priority goes before what the thread has at hand",
          "[pool][thread_pool][burst][priority]") {
    mp::ThreadPool pool({.threads = 1});
    std::atomic<int> ended{0};
    Stuck burst(pool, [&] { ++ended; });
    auto first = pool.submit({.priority = 1}, [&] { return ended.load(); });
    auto last = pool.submit({.priority = -1}, [&] { return ended.load(); });
    burst.let_go();
    CHECK(first.get() == 0);
    CHECK(last.get() == 300);
}

TEST_CASE("what a thread has at hand is cancelled with the rest",
          "[pool][thread_pool][burst][shutdown]") {
    mp::ThreadPool pool({.threads = 1});
    std::atomic<int> ended{0};
    Stuck burst(pool, [&] { ++ended; });
    CHECK(pool.stats().waiting == 300);
    pool.shutdown({.wait = false, .cancel_futures = true});
    for (auto& future : burst.behind) REQUIRE(future.wait_for(0s));
    CHECK(std::all_of(burst.behind.begin(), burst.behind.end(),
                      [](const auto& future) { return future.cancelled(); }));
    burst.let_go();
    pool.join();
    CHECK(ended == 0);
    CHECK(pool.stats().cancelled == 300);
}

TEST_CASE("a task in a burst may wait for one that lies behind it", "[pool][thread_pool][burst]") {
    mp::ThreadPool pool({.threads = 1});
    auto before = burst(pool, 3000);
    std::promise<mp::Future<long>> later;
    auto sum = pool.submit([&] { return later.get_future().get().get() + 1; });
    auto behind = burst(pool, 100);
    later.set_value(behind.back());
    REQUIRE(sum.wait_for(60s));
    CHECK(sum.get() == 100);
}

TEST_CASE("arguments of a tiny task go when it has ended, though its future is held",
          "[pool][thread_pool][burst]") {
    mp::ThreadPool pool({.threads = 1});
    auto tiny = burst(pool, 3000);
    auto argument = std::make_shared<int>(7);
    std::vector<mp::Future<int>> futures;
    for (int i = 0; i < 100; ++i)
        futures.push_back(pool.submit([](const std::shared_ptr<int>& x) { return *x; }, argument));
    for (auto& future : futures) CHECK(future.get() == 7);
    CHECK(test::eventually([&] { return argument.use_count() == 1; }));
}

}  // namespace thread_pool_burst_test
