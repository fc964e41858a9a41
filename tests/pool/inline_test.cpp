// What runs between threads of one process alone: a pool without workers, and a ThreadPool, used by
// several threads at once. For ThreadSanitizer, too.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/pool.hpp>
#include <sidestep/this_task.hpp>
#include <sidestep/thread_pool.hpp>

#include "support.hpp"

namespace inline_test {

namespace mp = sidestep;
using namespace std::chrono_literals;

namespace {

int fail(int) { throw std::runtime_error("always"); }

}  // namespace

TEST_CASE("a pool without workers may be closed while another thread's task is tried again",
          "[pool][inline][retry]") {
    for (int round = 0; round < 50; ++round) {
        mp::Pool pool({.processes = 0});
        std::atomic<bool> begun{false};
        std::thread submits([&] {
            try {
                for (int i = 0; i < 20; ++i) {
                    auto f = pool.submit({.retry = {.max_attempts = 3}}, fail, i);
                    begun = true;
                    CHECK_THROWS_AS(f.get(), std::runtime_error);
                }
            } catch (const std::logic_error&) {  // it is closed
            }
        });
        while (!begun) std::this_thread::yield();
        pool.close();
        submits.join();
        CHECK_THROWS_AS(pool.submit(fail, 1), std::logic_error);
    }
}

TEST_CASE("Retry::when is asked within its task: it knows which attempt has failed",
          "[pool][thread_pool][inline][retry]") {
    std::vector<unsigned> attempts;
    mp::TaskOptions options{.retry = {.max_attempts = 3, .when = [&](const std::exception_ptr&) {
                                          attempts.push_back(mp::this_task::attempt());
                                          return true;
                                      }}};
    SECTION("without workers") {
        mp::Pool pool({.processes = 0});
        CHECK_THROWS_AS(pool.submit(options, fail, 1).get(), std::runtime_error);
    }
    SECTION("in a thread") {
        mp::ThreadPool pool({.threads = 1});
        CHECK_THROWS_AS(pool.submit(options, fail, 1).get(), std::runtime_error);
    }
    CHECK(attempts == std::vector<unsigned>{1, 2});
}

TEST_CASE("a pool without workers may be interrupted by terminate() in another thread",
          "[pool][inline][retry]") {
    for (int round = 0; round < 20; ++round) {
        mp::Pool pool({.processes = 0});
        std::atomic<bool> begun{false};
        std::thread submits([&] {
            auto ask = [&](const std::exception_ptr&) { return begun = true; };
            auto f = pool.submit({.retry = {.max_attempts = 65535, .when = ask}}, fail, 1);
            CHECK_THROWS_AS(f.get(), std::runtime_error);
        });
        while (!begun) std::this_thread::yield();
        pool.terminate();
        submits.join();
    }
}

TEST_CASE("a forked copy of a ThreadPool refuses all, whatever its threads were at",
          "[pool][thread_pool][fork]") {
    std::atomic<bool> end{false};  // outlives the pool, whose thread looks at it
    mp::ThreadPool pool({.threads = 2});
    auto busy = pool.submit([&] {
        while (!end) std::this_thread::yield();
    });
    std::thread asks([&] {
        while (!end) (void)pool.threads();  // holds the pool's mutex again and again
    });
    auto refused = [](auto call) {
        try {
            call();
        } catch (const std::logic_error&) {
            return 0;
        }
        return 1;
    };
    for (int round = 0; round < 30; ++round) {
        pid_t child = fork();
        if (child == 0) {
            alarm(20);  // a hang is a failure
            int failures = refused([&] { pool.close(); }) + refused([&] { pool.terminate(); }) +
                           refused([&] { pool.join(); }) + refused([&] { pool.shutdown(); }) +
                           refused([&] { (void)pool.threads(); }) +
                           refused([&] { (void)pool.idle_threads(); }) +
                           refused([&] { (void)pool.stats(); }) +
                           refused([&] { (void)pool.submit([] {}); }) +
                           refused([&] { pool.trace("/dev/null"); }) +
                           refused([&] { pool.trace_stop(); }) + refused([&] { busy.get(); }) +
                           (busy.wait_for(1h) || busy.cancel() || busy.running() ? 1 : 0);
            _exit(failures);
        }
        int status = -1;
        waitpid(child, &status, 0);
        CHECK(WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == 0);
    }
    end = true;
    asks.join();
    CHECK(pool.submit([] { return 7; }).get() == 7);
}

#ifndef __SANITIZE_THREAD__  // it knows no threads that a forked child starts

TEST_CASE("a task of a ThreadPool that forks may wait for a promise in the child",
          "[pool][thread_pool][fork]") {
    mp::ThreadPool pool({.threads = 2});
    auto forks = [] {
        mp::Promise<int> promise;
        mp::Future<int> future = promise.future();
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            std::thread sets([&] { promise.set_value(7); });
            int value = future.get();
            sets.join();
            _exit(value);
        }
        int status = -1;
        waitpid(child, &status, 0);
        return status;
    };
    std::atomic<bool> end{false};
    std::thread asks([&] {
        while (!end) (void)pool.threads();
    });
    for (int round = 0; round < 20; ++round) {
        int status = pool.submit(forks).get();
        CHECK(WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == 7);
    }
    end = true;
    asks.join();
}

#endif

TEST_CASE("join() of a ThreadPool returns after the callbacks of what is cancelled meanwhile",
          "[pool][thread_pool][callback][shutdown]") {
    mp::ThreadPool pool({.threads = 1});
    std::atomic<bool> go_on{false}, called{false}, joins{false};
    auto busy = pool.submit([&] { return test::eventually([&] { return go_on.load(); }); });
    REQUIRE(test::eventually([&] { return busy.running(); }));
    pool.submit([] {}).add_done_callback([&](const auto&) {
        go_on = true;  // from here on nothing else holds up join()
        (void)test::eventually([&] { return joins.load(); });
        for (int i = 0; i < 10'000; ++i) std::this_thread::yield();
        called = true;
    });
    pool.close();
    std::thread cancels([&] { pool.shutdown({.wait = false, .cancel_futures = true}); });
    REQUIRE(test::eventually([&] { return busy.ready(); }));
    joins = true;
    pool.join();
    CHECK(called);
    cancels.join();
}

}  // namespace inline_test
