// ThreadPool: what is its own. What it shares with Pool: both_pools_test.cpp.
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <semaphore>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/thread_pool.hpp>

#include "pool_cases.hpp"
#include "pool_support.hpp"

namespace thread_pool_test {

namespace mp = sidestep;
using namespace std::chrono_literals;
using test::eventually;
using test::numbers;

namespace {

std::string thread_name() {
    char name[16] = {};
    pthread_getname_np(pthread_self(), name, sizeof name);
    return name;
}
}  // namespace

THREADS_CASE("Tasks", "tasks of threads capture, refer and move", "[thread_pool]",
             "pointers cannot travel, nor std::ref: the other process has memory of its own") {
    mp::ThreadPool pool({.threads = 2});
    int sum = 0;
    pool.submit([&sum](std::unique_ptr<int> p) { sum += *p; }, std::make_unique<int>(7)).get();
    CHECK(sum == 7);
    auto future = pool.submit([] { return std::make_unique<int>(8); });
    CHECK(*future.get() == 8);
    struct Error {
        int code;
    };
    CHECK_THROWS_AS(pool.submit([]() -> int { throw Error{3}; }).get(), Error);
}

TEST_CASE("threads are started when they are needed, and used again",
          "[pool][thread_pool][py:ThreadPoolExecutorTest.test_idle_thread_reuse]") {
    mp::ThreadPool pool({.threads = 4});
    CHECK(pool.threads() == 0);
    for (int i = 0; i < 10; ++i) {
        CHECK(pool.apply([] { return std::this_thread::get_id(); }) != std::this_thread::get_id());
        // Its future is done a moment before the thread is idle.
        REQUIRE(eventually([&] { return pool.idle_threads() == 1; }));
    }
    CHECK(pool.threads() == 1);
}

TEST_CASE("there are no more threads than there may be",
          "[pool][thread_pool][py:ThreadPoolExecutorTest.test_saturation]") {
    mp::ThreadPool pool({.threads = 4});
    std::counting_semaphore<> gate(0);
    std::vector<mp::Future<void>> futures;
    for (int i = 0; i < 15 * 4; ++i) futures.push_back(pool.submit([&] { gate.acquire(); }));
    CHECK(pool.threads() == 4);
    gate.release(15 * 4);
    for (auto& f : futures) f.get();
    CHECK(pool.threads() == 4);
}

TEST_CASE("the default is four threads more than CPUs, at most 32",
          "[pool][thread_pool][py:ThreadPoolExecutorTest.test_default_workers]") {
    mp::ThreadPool pool;
    CHECK(pool.processes() == std::min(32u, mp::Pool({.processes = {}}).processes() + 4));
}

TEST_CASE("threads have names",
          "[pool][thread_pool]"
          "[py:ThreadPoolShutdownTest.test_thread_names_assigned]"
          "[py:ThreadPoolShutdownTest.test_thread_names_default]") {
    mp::ThreadPool named({.threads = 2, .thread_name_prefix = "SpecialPool"});
    CHECK(named.apply(thread_name) == "SpecialPool_0");
    mp::ThreadPool plain({.threads = 2});
    CHECK_THAT(plain.apply(thread_name), Catch::StartsWith("tpool") && Catch::EndsWith("_0"));
}

TEST_CASE("a map that nobody waits for is run nevertheless",
          "[pool][thread_pool][py:ThreadPoolExecutorTest.test_map_submits_without_iteration]") {
    std::atomic<int> finished{0};
    mp::ThreadPool pool({.threads = 5});
    (void)pool.map_async([&](int) { ++finished; }, numbers(10));
    pool.shutdown();
    CHECK(finished == 10);
}

TEST_CASE("a stream that is left cancels what has not begun",
          "[pool][thread_pool][stream]"
          "[py:ThreadPoolExecutorTest.test_executor_map_current_future_cancel]") {
    std::atomic<int> ran{0};
    std::binary_semaphore gate(0);
    mp::ThreadPool pool({.threads = 1});
    {
        auto busy = pool.submit([&] { gate.acquire(); });
        auto stream = pool.imap([&](int x) { return ran += 1, x; }, numbers(4), {.chunksize = 1});
        stream.detach();
        auto left = std::move(stream);
        (void)left;
    }
    gate.release();
    pool.shutdown();
    CHECK(ran == 0);
}

TEST_CASE("shutdown ends the threads",
          "[pool][thread_pool][shutdown]"
          "[py:ThreadPoolShutdownTest.test_threads_terminate]"
          "[py:ThreadPoolShutdownTest.test_context_manager_shutdown]"
          "[py:ThreadPoolShutdownTest.test_del_shutdown]") {
    std::atomic<int> ended{0};
    std::vector<mp::Future<int>> futures;
    {
        std::latch all(3);  // longer than the pool: a thread may look at it after the last came
        mp::ThreadPool pool({.threads = 5, .finalizer = [&] { ++ended; }});
        for (int i = 0; i < 3; ++i)
            futures.push_back(pool.submit([&, i] { return all.arrive_and_wait(), i; }));
        futures.back().wait();
        CHECK(ended == 0);
    }
    CHECK(ended == 3);
    for (int i = 0; i < 3; ++i) CHECK(futures[static_cast<std::size_t>(i)].get() == i);
}

TEST_CASE("shutdown without waiting lets the tasks finish",
          "[pool][thread_pool][shutdown][py:ThreadPoolShutdownTest.test_shutdown_no_wait]") {
    mp::ThreadPool pool({.threads = 2});
    std::binary_semaphore gate(0);
    auto held = pool.submit([&] { return gate.acquire(), 1; });
    auto waiting = pool.submit([] { return 2; });
    pool.shutdown({.wait = false});
    CHECK_THROWS_AS(pool.submit([] {}), std::logic_error);
    CHECK_FALSE(held.ready());
    gate.release();
    CHECK(held.get() == 1);
    CHECK(waiting.get() == 2);
}

TEST_CASE("shutdown can cancel what has not begun, without waiting",
          "[pool][thread_pool][shutdown]"
          "[py:ThreadPoolShutdownTest.test_cancel_futures_wait_false]") {
    mp::ThreadPool pool({.threads = 1});
    std::binary_semaphore gate(0);
    std::binary_semaphore begun(0);
    auto held = pool.submit([&] { return begun.release(), gate.acquire(), 1; });
    begun.acquire();
    std::vector<mp::Future<int>> rest;
    for (int i = 0; i < 10; ++i) rest.push_back(pool.submit([] { return 2; }));
    pool.shutdown({.wait = false, .cancel_futures = true});
    for (auto& f : rest) CHECK(f.cancelled());
    gate.release();
    CHECK(held.get() == 1);
}

TEST_CASE("what a thread pool cancels says why", "[pool][thread_pool]") {
    mp::ThreadPool pool({.threads = 1});
    std::binary_semaphore go(0);
    auto runs = pool.submit([&] { go.acquire(); });
    CHECK(eventually([&] { return runs.running(); }));
    auto waits = pool.submit([] {});
    std::string why;
    SECTION("its pool was terminated") {
        pool.terminate();
        why = "the task was cancelled: its pool was terminated";
    }
    SECTION("its pool was shut down") {
        pool.shutdown({.wait = false, .cancel_futures = true});
        why = "the task was cancelled: its pool was shut down before it began";
    }
    go.release();
    CHECK_THROWS_AS(waits.get(), mp::CancelledError);
    CHECK_THROWS_WITH(waits.get(), why);
    CHECK(waits.cancelled());
    pool.join();
}

TEST_CASE("wait() sees tasks that end at the same moment",
          "[pool][thread_pool][futures][py:ThreadPoolWaitTests.test_pending_calls_race]") {
    mp::ThreadPool pool({.threads = 8});
    for (int round = 0; round < 50; ++round) {
        std::latch start(8);
        std::vector<mp::Future<void>> futures;
        for (int i = 0; i < 8; ++i)
            futures.push_back(pool.submit([&] { start.arrive_and_wait(); }));
        auto [done, pending] = mp::wait(futures, mp::ReturnWhen::all_completed, 60s);
        REQUIRE(done.size() == 8);
        REQUIRE(pending.empty());
    }
}

#ifndef TEST_SANITIZED  // their allocators do not work in the child of a process with threads
TEST_CASE("a fork while the pool is busy leaves a child that can exit, and says no to the pool",
          "[pool][thread_pool][fork][py:ThreadPoolExecutorTest.test_hang_global_shutdown_lock]") {
    mp::ThreadPool pool({.threads = 2});
    std::atomic<bool> stop{false};
    std::thread submitter([&] {
        while (!stop) pool.submit([] {}).wait();
    });
    for (int i = 0; i < 20; ++i) {
        pid_t child = fork();
        if (child == 0) {
            bool refused = false;
            try {
                pool.submit([] {});
            } catch (const std::logic_error&) {
                refused = true;
            }
            _exit(refused ? 0 : 1);
        }
        int status = 0;
        REQUIRE(waitpid(child, &status, 0) == child);
        CHECK(status == 0);
    }
    stop = true;
    submitter.join();
}
#endif

#ifndef TEST_SANITIZED
TEST_CASE("in a forked child each call of a ThreadPool says no, whatever its threads hold",
          "[pool][thread_pool][fork]") {
    using Call = void (*)(mp::ThreadPool&);
    constexpr Call calls[] = {
        [](mp::ThreadPool& pool) { pool.close(); },
        [](mp::ThreadPool& pool) { pool.terminate(); },
        [](mp::ThreadPool& pool) { pool.join(); },
        [](mp::ThreadPool& pool) { (void)pool.join_for(1ms); },
        [](mp::ThreadPool& pool) { pool.shutdown(); },
        [](mp::ThreadPool& pool) { (void)pool.threads(); },
        [](mp::ThreadPool& pool) { (void)pool.idle_threads(); },
        [](mp::ThreadPool& pool) { (void)pool.stats(); },
        [](mp::ThreadPool& pool) { pool.trace_stop(); },
        [](mp::ThreadPool& pool) { (void)pool.submit([] {}); },
        [](mp::ThreadPool& pool) { (void)pool.try_submit([] {}); },
        [](mp::ThreadPool& pool) { (void)pool.map([](int i) { return i; }, std::vector<int>{1}); }};
    mp::ThreadPool pool({.threads = 2});
    std::atomic<bool> stop{false};
    std::thread holder([&] {  // has the mutex most of the time
        while (!stop) (void)pool.idle_threads();
    });
    for (const Call& call : calls) {
        CAPTURE(&call - calls);
        for (int i = 0; i < 10; ++i) {
            pid_t child = fork();
            if (child == 0) {
                alarm(60);  // it hangs
                bool refused = false;
                try {
                    call(pool);
                } catch (const std::logic_error&) {
                    refused = true;
                }
                _exit(refused ? 0 : 1);
            }
            int status = 0;
            CHECK(waitpid(child, &status, 0) == child);
            CHECK(status == 0);
        }
    }
    stop = true;
    holder.join();
}
#endif

TEST_CASE("a task that waits for tasks of its own pool does not deadlock", "[pool][thread_pool]") {
    mp::ThreadPool pool({.threads = 1});
    std::function<int(int)> fibonacci = [&](int n) {
        if (n < 2) return n;
        auto a = pool.submit([&, n] { return fibonacci(n - 1); });
        auto b = pool.submit([&, n] { return fibonacci(n - 2); });
        return a.get() + b.get();
    };
    CHECK(pool.submit(fibonacci, 8).get(120s) == 21);
    auto outer = pool.submit([&] { return pool.map([](int x) { return x + 1; }, numbers(5)); });
    CHECK(outer.get(120s) == std::vector{1, 2, 3, 4, 5});
}

TEST_CASE("a thread that is not told to stop runs on; its future has failed in time",
          "[pool][thread_pool][timeout]") {
    mp::ThreadPool pool({.threads = 1});
    std::atomic<bool> asked{false};
    auto polite = pool.submit({.timeout = 20ms}, [&] {
        while (!mp::this_task::stop_requested()) poll(nullptr, 0, 1);
        asked = true;
        return 1;
    });
    CHECK_THROWS_AS(polite.get(), mp::TaskTimeout);
    CHECK(eventually([&] { return asked.load(); }));
    CHECK(pool.submit({.timeout = 60s}, [] { return 2; }).get() == 2);
    auto running = pool.submit([&] {
        while (!mp::this_task::stop_requested()) poll(nullptr, 0, 1);
        return 3;
    });
    CHECK(eventually([&] { return running.running(); }));
    CHECK_FALSE(running.cancel());  // it is asked, no more
    CHECK(running.get() == 3);
}

TEST_CASE("a failing initializer breaks the thread pool", "[pool][thread_pool][initializer]") {
    mp::ThreadPool pool(
        {.threads = 2, .initializer = [] { throw std::runtime_error("no license"); }});
    auto lost = [&] { return pool.submit([] { return 1; }); };
    CHECK_THROWS_AS(lost().get(), mp::BrokenPool);
    CHECK_THROWS_WITH(lost(), Catch::Contains("no license"));
}

TEST_CASE("options of a thread pool that make no sense are refused", "[pool][thread_pool]") {
    CHECK_THROWS_WITH(mp::ThreadPool({.threads = 0}), Catch::Contains("1 to 4096"));
    CHECK_THROWS_AS(mp::ThreadPool({.threads = 4097}), std::invalid_argument);
    CHECK_THROWS_WITH(mp::ThreadPool({.task = {.memory_limit = std::size_t(1) << 30}}),
                      Catch::Contains("use a Pool"));
    mp::ThreadPool pool({.threads = 1});
    CHECK_THROWS_AS(pool.submit({.timeout = -1s}, [] {}), std::invalid_argument);
    CHECK_THROWS_AS(pool.join(), std::logic_error);
    CHECK_THROWS_AS(pool.apply([&] { pool.close(), pool.join(); }), std::logic_error);
}

#ifndef TEST_SANITIZED
TEST_CASE("a thread that the system refuses costs no task", "[pool][thread_pool][memory]") {
    auto program = test::run_program({"refused-threads"});  // where no old stacks are kept
    CHECK(program.exited_with(0));
    CHECK(program.output == "");
}
#endif

}  // namespace thread_pool_test
