// Many threads at one pool.
#include <atomic>
#include <numeric>
#include <random>
#include <thread>

#include <catch2/catch.hpp>

#include "pool_support.hpp"

namespace threads_test {

namespace mp = sidestep;
using test::methods;
using namespace std::chrono_literals;

namespace {

// Runs `work` in that many threads; the sum of what they return (the number of failures).
template <class Work>
int in_threads(int count, Work work) {
    std::atomic<int> failures{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < count; ++t) threads.emplace_back([&, t] { failures += work(t); });
    for (std::thread& thread : threads) thread.join();
    return failures;
}

}  // namespace

TEST_CASE("many threads submit and get at once", "[pool][threads]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    int failures = in_threads(8, [&](int t) {
        int wrong = 0;
        for (int i = 0; i < 300; ++i) wrong += pool.apply(test::add, t, i) != t + i;
        std::vector<mp::Future<int>> futures;
        for (int i = 0; i < 300; ++i) futures.push_back(pool.submit(test::add, t, i));
        for (int i = 0; i < 300; ++i) wrong += futures[static_cast<std::size_t>(i)].get() != t + i;
        return wrong;
    });
    CHECK(failures == 0);
}

TEST_CASE("maps in many threads do not mix", "[pool][threads]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    int failures = in_threads(6, [&](int t) {
        int wrong = 0;
        for (long round = 0; round < 5; ++round) {
            auto numbers = test::numbers(0L, 500L + t);
            long expected = 0, sum = 0;
            for (long x : numbers) expected += x * x;
            if (t % 2) {
                for (long x : pool.map(test::square, numbers)) sum += x;
            } else {
                for (long x : pool.imap_unordered(test::square, numbers)) sum += x;
            }
            wrong += sum != expected;
        }
        return wrong;
    });
    CHECK(failures == 0);
}

TEST_CASE("many threads wait for one future", "[pool][threads]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(2);
    mp::Pool pool({.processes = 1, .start_method = method});
    auto future = pool.submit(test::wait_at, words.path(), 0u, 1u);
    test::await(words[0]);
    std::atomic<int> ready{0};
    std::thread opener([&] {
        test::eventually([&] { return ready == 8; });
        words[1] = 7;
    });
    int failures = in_threads(8, [&](int t) {
        int wrong = 0;
        if (t % 2) wrong += future.wait_for(1ms);
        ++ready;
        return wrong + (future.get() != 7);
    });
    opener.join();
    CHECK(failures == 0);
}

TEST_CASE("waiters of different tasks are woken by their own", "[pool][threads]") {
    auto method = GENERATE(from_range(methods()));
    constexpr int kThreads = 6;
    test::SharedWords words(2 * kThreads);
    mp::Pool pool({.processes = kThreads, .start_method = method});
    std::vector<mp::Future<std::uint64_t>> futures;
    for (std::size_t i = 0; i < kThreads; ++i)
        futures.push_back(pool.submit(test::wait_at, words.path(), 2 * i, 2 * i + 1));
    for (std::size_t i = 0; i < kThreads; ++i) test::await(words[2 * i]);
    std::atomic<int> returned{0};
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (std::size_t i = 0; i < kThreads; ++i)
        threads.emplace_back([&, i] {
            wrong += futures[i].get() != i + 1;
            ++returned;
        });
    for (std::size_t k = 0; k < kThreads; ++k) {  // in an order of our own
        std::size_t i = (k * 5 + 3) % kThreads;
        words[2 * i + 1] = i + 1;
        CHECK(test::eventually([&] { return returned == static_cast<int>(k) + 1; }));
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(wrong == 0);
}

TEST_CASE("a pool closed while threads submit takes each task or refuses it",
          "[pool][threads][py:ExecutorTest.test_shutdown_race_issue12456]") {
    auto method = GENERATE(from_range(methods()));
    for (int round = 0; round < 3; ++round) {
        test::SharedWords words(1);
        mp::Pool pool({.processes = 2, .start_method = method});
        std::atomic<std::uint64_t> accepted{0};
        std::atomic<int> started{0};
        std::thread closer([&] {
            test::eventually([&] { return started > 2; });
            pool.close();
            pool.join();
        });
        int failures = in_threads(4, [&](int) {
            ++started;
            std::vector<mp::Future<std::uint64_t>> futures;
            for (;;) {
                try {
                    futures.push_back(pool.submit(test::bump, words.path(), 0u));
                    ++accepted;
                } catch (const std::logic_error&) {
                    break;
                }
            }
            int wrong = 0;
            for (auto& f : futures) wrong += f.exception() != nullptr;
            return wrong;
        });
        closer.join();
        CHECK(failures == 0);
        CHECK(words[0] == accepted);
    }
}

TEST_CASE("a pool terminated while threads submit and wait leaves nobody waiting",
          "[pool][threads]") {
    auto method = GENERATE(from_range(methods()));
    for (int round = 0; round < 10; ++round) {
        mp::Pool pool({.processes = 2, .start_method = method});
        std::atomic<int> applied{0};
        std::thread ender([&] {
            test::eventually([&] { return applied > 20; });
            pool.terminate();
            pool.join();
        });
        int failures = in_threads(4, [&](int) {
            for (;;) {
                try {
                    if (pool.apply(test::add, 1, 2) != 3) return 1;
                    ++applied;
                } catch (const mp::CancelledError&) {
                } catch (const std::logic_error&) {
                    return 0;
                }
            }
        });
        ender.join();
        CHECK(failures == 0);
    }
}

TEST_CASE("several threads may join", "[pool][threads]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    pool.submit(test::add, 1, 2);
    pool.close();
    CHECK(in_threads(4, [&](int) {
              pool.join();
              return pool.worker_pids().empty() ? 0 : 1;
          }) == 0);
}

TEST_CASE("cancelling in one thread while others wait and submit", "[pool][threads][cancel]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(1);
    mp::Pool pool({.processes = 2, .start_method = method});
    std::atomic<std::uint64_t> finished{0};
    int failures = in_threads(4, [&](int t) {
        std::mt19937 random(static_cast<unsigned>(t));
        int wrong = 0;
        for (int round = 0; round < 200; ++round) {
            std::vector<mp::Future<std::uint64_t>> futures;
            for (int i = 0; i < 20; ++i)
                futures.push_back(pool.submit(test::bump, words.path(), 0u));
            std::vector<bool> cancelled(futures.size());
            for (std::size_t i = 0; i < futures.size(); ++i)
                if (random() % 2) cancelled[i] = futures[i].cancel();
            for (std::size_t i = 0; i < futures.size(); ++i) {
                bool failed = futures[i].exception() != nullptr;
                wrong += failed != cancelled[i];
                finished += !failed;
            }
        }
        return wrong;
    });
    CHECK(failures == 0);
    // One that was cancelled while it ran may have got that far.
    CHECK(words[0] >= finished);
    CHECK(words[0] <= 4u * 200 * 20);
}

TEST_CASE("fork is refused beside other threads, with the ways out; by name it is allowed",
          "[pool][threads][fork]") {
    std::atomic<bool> leave{false};
    std::thread other([&] { test::eventually([&] { return leave.load(); }); });
    try {
        mp::Pool pool({.processes = 1, .start_method = mp::StartMethod::fork});
        FAIL_CHECK("accepted");
    } catch (const std::logic_error& error) {
        CHECK_THAT(error.what(), Catch::Contains("1 other thread") && Catch::Contains("spawn"));
    }
    mp::Pool by_name({.processes = 1, .start_method = mp::StartMethod::fork_threaded});
    CHECK(by_name.apply(test::add, 1, 2) == 3);
    mp::Pool spawned({.processes = 1, .start_method = mp::StartMethod::spawn});
    CHECK(spawned.apply(test::add, 1, 2) == 3);
    leave = true;
    other.join();
    // A thread that was joined, and the threads of other pools, do not count.
    mp::Pool again({.processes = 1, .start_method = mp::StartMethod::fork});
    CHECK(again.apply(test::add, 1, 2) == 3);
}

}  // namespace threads_test
