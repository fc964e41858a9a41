// A pool that ends in a thread of its own: in a callback of its futures, or in a task of its own.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/thread_pool.hpp>

#include "policy_support.hpp"

namespace own_end_test {

namespace mp = sidestep;
using test::get;
using test::kCount;
using test::kExtra;
using test::kGate;
using test::kTell;
using test::methods;
using namespace std::chrono_literals;

namespace {

bool all_gone(const std::vector<int>& pids) {
    return test::eventually([&] {
        return std::none_of(pids.begin(), pids.end(),
                            [](int pid) { return test::process_exists(pid); });
    });
}

// A pool that a callback ends.
struct Held {
    std::unique_ptr<mp::Pool> pool;
    std::atomic<bool> ended{false};

    // The thread in which the pool before this one ended may still be about to end: no fork then.
    explicit Held(const mp::PoolOptions& options) {
        REQUIRE(test::eventually([&] {
            try {
                pool = std::make_unique<mp::Pool>(options);
            } catch (const std::logic_error&) {
                return false;
            }
            return true;
        }));
    }
    void end() {
        pool.reset();
        ended = true;
    }
};

}  // namespace

TEST_CASE("a pool that ends in a callback of its own does not wait there; its tasks are finished",
          "[pool][callback][shutdown]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    Held held({.processes = 2, .start_method = method});
    std::vector<int> pids = held.pool->worker_pids();
    auto blocked = held.pool->submit(test::wait_at, words.path(), kTell, kGate);
    std::vector<mp::Future<int>> others;
    for (int i = 0; i < 100; ++i) others.push_back(held.pool->submit(test::add, i, 1));
    std::atomic<int> called{0};
    for (auto& f : others) f.add_done_callback([&](const auto&) { ++called; });
    auto first = held.pool->submit(test::wait_at, words.path(), kCount, kExtra);
    first.add_done_callback([&](const auto&) { held.end(); });
    words[kExtra] = 1;
    REQUIRE(test::eventually([&] { return held.ended.load(); }));  // the gate is closed still
    words[kGate] = 7;
    CHECK(get(blocked) == 7);
    for (int i = 0; i < 100; ++i) CHECK(get(others[static_cast<std::size_t>(i)]) == i + 1);
    CHECK(all_gone(pids));
    CHECK(test::eventually([&] { return called == 100; }));
}

TEST_CASE("a pool that ends in a callback still asks Retry::when", "[pool][callback][retry]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    Held held({.processes = 1, .start_method = method});
    std::atomic<int> asked{0};
    auto again = [&](const std::exception_ptr&) { return ++asked > 0; };
    auto first = held.pool->submit(test::wait_at, words.path(), kTell, kGate);
    auto retried = held.pool->submit({.retry = {.max_attempts = 3, .when = again}},
                                     test::fail_first, words.path(), 2u);
    first.add_done_callback([&](const auto&) { held.end(); });
    words[kGate] = 1;
    CHECK(get(retried) == 3);
    CHECK(asked == 2);
    CHECK(test::eventually([&] { return held.ended.load(); }));
}

TEST_CASE("an exception that ends a pool in its callback terminates it", "[pool][callback]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    test::CapturedStderr captured;  // what a callback throws is reported there
    Held held({.processes = 1, .start_method = method});
    std::vector<int> pids = held.pool->worker_pids();
    auto running = held.pool->submit(test::wait_at, words.path(), kTell, kGate);
    test::await(words[kTell]);
    auto last = held.pool->submit(test::own_pid);
    auto throws = [&](const auto&) {
        std::unique_ptr<mp::Pool> mine = std::move(held.pool);
        throw std::runtime_error("no more");
    };
    // One that is cancelled is done, and has its callback called by the pool.
    last.add_done_callback(throws);
    CHECK(last.cancel());
    CHECK_THROWS_AS(get(running), mp::CancelledError);
    CHECK(all_gone(pids));
    CHECK(test::eventually([&] { return captured.text().find("no more") != std::string::npos; }));
}

TEST_CASE("a pool may end in the callback of a map", "[pool][callback][map]") {
    auto method = GENERATE(from_range(methods()));
    Held held({.processes = 2, .start_method = method});
    std::vector<int> pids = held.pool->worker_pids();
    test::SharedWords words(test::kWords);
    auto wait = [](const std::string& path) { return test::wait_at(path, kTell, kGate); };
    auto results = held.pool->map_async(wait, std::vector<std::string>{words.path()});
    results.add_done_callback([&](const auto&) { held.end(); });
    words[kGate] = 4;
    CHECK(get(results) == std::vector<std::uint64_t>{4});
    CHECK(test::eventually([&] { return held.ended.load(); }));
    CHECK(all_gone(pids));
}

TEST_CASE("join() and shutdown() in a callback say what to do instead", "[pool][callback]") {
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1});
    std::atomic<int> refused{0};
    auto try_it = [&](const auto&) {
        for (auto call : {&mp::Pool::close, &mp::Pool::join}) {
            try {
                (pool.*call)();
            } catch (const std::logic_error&) {
                ++refused;
            }
        }
    };
    pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate))
        .add_done_callback(try_it);  // not done yet: it does not run here
    words[kGate] = 1;
    CHECK(test::eventually([&] { return refused == 1; }));
    pool.join();
}

TEST_CASE("the end of the program waits for a pool that ended in a callback of its own",
          "[pool][callback][exit]") {
    auto method = GENERATE(from_range(methods()));
    auto program = test::run_program({"end-in-callback", test::name_of(method)});
    CHECK(program.exited_with(0));
    CHECK(program.output == "main is over\nthe task is done\n");
}

TEST_CASE("a ThreadPool may end in its own task, callback or timer", "[threads][callback]") {
    std::atomic<bool> done{false}, go_on{false};
    auto pool = std::make_shared<mp::ThreadPool>(mp::ThreadPoolOptions{.threads = 2});
    std::vector<mp::Future<int>> others;
    for (int i = 0; i < 20; ++i) others.push_back(pool->submit([i] { return i; }));
    auto wait = [&] {
        while (!go_on) std::this_thread::yield();
    };
    auto until_asked = [] {
        while (!mp::this_task::stop_requested()) std::this_thread::yield();
    };
    auto end = [&done](std::shared_ptr<mp::ThreadPool>& last) {
        last.reset();
        done = true;
    };
    SECTION("a task holds the last reference") {
        mp::ThreadPool& there = *pool;
        there.submit([wait, end, last = std::move(pool)]() mutable {
            wait();
            end(last);
        });
    }
    SECTION("a callback holds it") {
        mp::Future<void> f = pool->submit(wait);
        f.add_done_callback([end, last = std::move(pool)](const auto&) mutable { end(last); });
    }
    SECTION("the callback of a timeout holds it") {
        mp::Future<void> f = pool->submit({.timeout = 20ms}, until_asked);
        f.add_done_callback([end, last = std::move(pool)](const auto&) mutable { end(last); });
    }
    go_on = true;
    CHECK(test::eventually([&] { return done.load(); }));
    for (int i = 0; i < 20; ++i) CHECK(get(others[static_cast<std::size_t>(i)]) == i);
}

}  // namespace own_end_test
