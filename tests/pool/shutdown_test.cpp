// shutdown(), close(), the destructor and the end of the program; and what CPython's tests of
// executors ask of workers besides.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include <sidestep/event.hpp>
#include <sidestep/semaphore.hpp>

#include "both_pools.hpp"
#include "policy_support.hpp"

namespace shutdown_test {

namespace mp = sidestep;
using test::get;
using test::kGate;
using test::kTell;
using test::methods;
using namespace std::chrono_literals;

namespace {

int magnitude(int x) { return x < 0 ? -x : x; }
const std::vector<int> kItems{-5, -4, -3, -2, -1, 0, 1, 2, 3, 4};
const std::vector<int> kMagnitudes{5, 4, 3, 2, 1, 0, 1, 2, 3, 4};

void acquire(const mp::Semaphore& semaphore) { mp::Semaphore(semaphore).acquire(); }
int spin_briefly() {
    auto end = std::chrono::steady_clock::now() + 2ms;
    while (std::chrono::steady_clock::now() < end) {
    }
    return 1;
}

// Counts how many of it there are in this process.
struct Counted {
    static inline int alive = 0;
    std::string bytes;
    Counted() { ++alive; }
    explicit Counted(std::string b) : bytes(std::move(b)) { ++alive; }
    Counted(const Counted& other) : bytes(other.bytes) { ++alive; }
    Counted& operator=(const Counted&) = default;
    ~Counted() { --alive; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(bytes);
    }
};
std::size_t measure(const Counted& c) { return c.bytes.size(); }

bool all_gone(const std::vector<int>& pids) {
    return std::none_of(pids.begin(), pids.end(),
                        [](int pid) { return test::process_exists(pid); });
}

}  // namespace

TEST_CASE("shutdown() with cancel_futures finishes what runs and cancels what waits",
          "[pool][shutdown][py:ExecutorShutdownTest.test_cancel_futures]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<mp::Future<int>> futures;
    futures.push_back(pool.submit(spin_briefly));
    CHECK(get(futures[0]) == 1);
    for (int i = 0; i < 5000; ++i) futures.push_back(pool.submit(spin_briefly));
    pool.shutdown({.cancel_futures = true});
    auto cancelled =
        std::count_if(futures.begin(), futures.end(), [](const auto& f) { return f.cancelled(); });
    CHECK(cancelled > 20);
    CHECK(cancelled < 5001);
    for (auto& f : futures) {
        CHECK(f.ready());
        if (!f.cancelled()) CHECK(f.get() == 1);
    }
    CHECK_THROWS_AS(pool.submit(spin_briefly), std::logic_error);
    CHECK(pool.worker_pids().empty());
}

TEST_CASE("a task that is cancelled right before shutdown() does not hold it up",
          "[pool][shutdown][py:ExecutorShutdownTest.test_hang_gh94440]") {
    auto method = GENERATE(from_range(methods()));
    for (int round = 0; round < 10; ++round) {
        mp::Pool pool({.processes = 1, .start_method = method});
        CHECK(get(pool.submit(test::add, 1, 2)) == 3);
        mp::Future<int> f = pool.submit(test::add, 1, 2);
        (void)f.cancel();
        pool.shutdown();
        CHECK(f.ready());
    }
}

TEST_CASE("shutdown() without waiting finishes what was submitted; join() comes later",
          "[pool][shutdown][py:ProcessPoolShutdownTest.test_shutdown_no_wait]") {
    auto method = GENERATE(from_range(methods()));
    std::vector<int> pids;
    mp::Future<std::vector<int>> results;
    {
        mp::Pool pool({.processes = 5, .start_method = method});
        pids = pool.worker_pids();
        results = pool.map_async(magnitude, kItems);
        pool.shutdown({.wait = false});
        CHECK_THROWS_AS(pool.submit(test::add, 1, 2), std::logic_error);
        CHECK(get(results) == kMagnitudes);
    }
    CHECK(all_gone(pids));
    CHECK(results.get() == kMagnitudes);
}

TEST_CASE("a pool that goes out of scope has computed everything, and its processes are gone",
          "[pool][shutdown][py:ProcessPoolShutdownTest.test_del_shutdown]"
          "[py:ProcessPoolShutdownTest.test_context_manager_shutdown]") {
    auto method = GENERATE(from_range(methods()));
    std::vector<int> pids;
    mp::Future<std::vector<int>> results;
    {
        mp::Pool pool({.processes = 5, .start_method = method});
        pids = pool.worker_pids();
        CHECK(pids.size() == 5);
        results = pool.map_async(magnitude, kItems);
        CHECK(pool.map(magnitude, kItems) == kMagnitudes);
    }
    CHECK(all_gone(pids));
    CHECK(results.ready());
    CHECK(results.get() == kMagnitudes);
}

TEST_CASE("a pool whose tasks wait for a semaphore ends when they get it",
          "[pool][shutdown][py:ProcessPoolShutdownTest.test_processes_terminate]") {
    auto method = GENERATE(from_range(methods()));
    mp::Semaphore semaphore(0);
    mp::Pool pool({.processes = 3, .start_method = method});
    for (int i = 0; i < 3; ++i) pool.submit(acquire, semaphore);
    std::vector<int> pids = pool.worker_pids();
    CHECK(pids.size() == 3);
    for (int i = 0; i < 3; ++i) semaphore.release();
    pool.shutdown();
    CHECK(all_gone(pids));
}

TEST_CASE("many more tasks than workers block the workers, not the caller",
          "[pool][py:ProcessPoolExecutorTest.test_saturation]") {
    auto method = GENERATE(from_range(methods()));
    mp::Semaphore semaphore(0);
    mp::Pool pool({.processes = 4, .start_method = method});
    std::vector<mp::Future<void>> futures;
    for (int i = 0; i < 60; ++i) futures.push_back(pool.submit(acquire, semaphore));
    CHECK(pool.worker_pids().size() == 4);
    for (int i = 0; i < 60; ++i) semaphore.release();
    for (auto& f : futures) get(f);
}

TEST_CASE("a worker that is idle is used again; others are left to sleep",
          "[pool][py:ProcessPoolExecutorTest.test_idle_process_reuse_one]"
          "[py:ProcessPoolExecutorTest.test_idle_process_reuse_multiple]") {
    // Python starts workers one by one; here all are there, and what counts is who works.
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 4, .start_method = method});
    std::set<int> all;
    for (int pid : pool.worker_pids()) all.insert(pid);
    REQUIRE(test::eventually([&] {  // the start is over
        return std::all_of(all.begin(), all.end(),
                           [](int pid) { return test::process_state(pid) == 'S'; });
    }));
    std::set<int> used;
    for (int i = 0; i < 3; ++i) used.insert(get(pool.submit(test::own_pid)));
    CHECK(used.size() <= 3);
    for (int i = 0; i < 3; ++i) {
        auto one = pool.submit(test::own_pid), two = pool.submit(test::own_pid);
        used.insert(get(one));
        used.insert(get(two));
    }
    CHECK(std::includes(all.begin(), all.end(), used.begin(), used.end()));
    std::vector<int> now = pool.worker_pids();
    CHECK(std::set<int>(now.begin(), now.end()) == all);  // and none was started for it
}

TEST_CASE("a worker keeps no argument of a task that is done",
          "[pool][py:ProcessPoolExecutorTest.test_ressources_gced_in_workers]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    for (std::size_t size : {10u, 10'000'000u}) {
        CHECK(get(pool.submit(measure, Counted(std::string(size, 'x')))) == size);
        CHECK(get(pool.submit([] { return Counted::alive; })) == 0);
    }
}

TEST_CASE("the pool keeps no argument, whether the future is kept or dropped",
          "[pool][py:ExecutorTest.test_no_stale_references]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    int before = Counted::alive;
    {
        Counted argument(std::string(1000, 'x'));
        pool.submit(measure, argument);  // deliberately dropped
    }
    CHECK(Counted::alive == before);
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
    auto event = std::make_shared<int>();
    std::weak_ptr<int> gone = event;
    pool.submit(test::add, 1, 2).add_done_callback([event = std::move(event)](const auto&) {});
    CHECK(test::eventually([&] { return gone.expired(); }));
}

TEST_CASE("a program that ends with its pool alive, closed or busy ends, and leaves nothing",
          "[pool][shutdown][exit]"
          "[py:_TestPoolWorkerLifetime.test_worker_finalization_via_atexit_handler_of_"
          "multiprocessing][py:ExecutorShutdownTest.test_hang_gh83386]"
          "[py:ExecutorShutdownTest.test_submit_after_interpreter_shutdown]"
          "[py:ExecutorDeadlockTest.test_exit_during_result_unpickle_in_result_handler]") {
    auto method = GENERATE(from_range(methods()));
    auto run = [&](const std::string& what) {
        return test::run_program({what, test::name_of(method)});
    };
    auto leaked = run("exit-with-global");
    CHECK(leaked.exited_with(0));
    CHECK(leaked.output == "10\n");
    auto closed = run("exit-after-close");
    CHECK(closed.exited_with(0));
    CHECK(closed.output == "apple\n");
    auto late = run("submit-at-exit");
    CHECK(late.exited_with(0));
    CHECK_THAT(late.output, Catch::StartsWith("refused: the pool is closed"));
    auto exits = run("exit-in-get");
    CHECK(exits.exited_with(7));
    CHECK(exits.output == "in get()\n");
}

// --- inline mode -------------------------------------------------------------------------------

TEST_CASE("a pool without workers runs tasks in submit(), and behaves the same", "[pool][inline]") {
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 0, .task = {.retry = {.max_attempts = 2}}});
    CHECK(pool.processes() == 0);
    CHECK(pool.worker_pids().empty());
    mp::Future<int> f = pool.submit(test::own_pid);
    CHECK(f.ready());
    CHECK_FALSE(f.running());
    CHECK_FALSE(f.cancel());
    CHECK(f.get() == getpid());
    CHECK(get(pool.submit({.priority = 3, .key = 5}, test::fail_first, words.path(), 1u)) == 2);
    CHECK_THROWS_WITH(pool.apply(test::fail_first, words.path(), 99u), "attempt 2");
    auto throws = [](const std::exception_ptr&) -> bool { throw std::runtime_error("no idea"); };
    CHECK_THROWS_AS(get(pool.submit({.retry = {.max_attempts = 5, .when = throws}},
                                    test::fail_first, words.path(), 99u)),
                    std::domain_error);
    std::string large(std::size_t(3) << 20, 'x');
    CHECK(get(pool.submit([](const std::string& s) { return s + "y"; }, large)) == large + "y");
    CHECK(pool.map(magnitude, kItems) == kMagnitudes);
    CHECK(pool.starmap(test::add, std::vector<std::pair<int, int>>{{1, 2}, {3, 4}}) ==
          std::vector<int>{3, 7});
    int sum = 0;
    for (int x : pool.imap_unordered(magnitude, kItems)) sum += x;
    CHECK(sum == 25);
    CHECK(get(pool.map_async(magnitude, kItems)) == kMagnitudes);
    int called = 0;
    f.on_value([&](int) { ++called; });
    CHECK(called == 1);
    CHECK(mp::wait(std::vector{f, pool.submit(test::own_pid)}).done.size() == 2);
    CHECK(get(pool.submit([] { return mp::this_worker::index(); })) == 0);
    CHECK(get(pool.submit([](const mp::Event& e) { return e.is_set(); }, mp::Event())) == false);
    pool.shutdown();
    CHECK_THROWS_AS(pool.submit(test::own_pid), std::logic_error);
}

TEST_CASE("a task of a pool without workers may use that pool", "[pool][inline]") {
    static mp::Pool* outer = nullptr;
    mp::Pool pool({.processes = 0});
    outer = &pool;
    auto nested = [] { return outer->apply(test::add, 1, 2) + outer->apply(test::add, 3, 4); };
    CHECK(pool.apply(nested) == 10);
    CHECK(mp::this_task::number() == 0);
}

// --- global() ----------------------------------------------------------------------------------

TEST_CASE("global() is one pool, made anew when it was closed, and in a forked child",
          "[pool][global]") {
    auto program = test::run_program({"global", "spawn"});
    CHECK(program.exited_with(0));
    CHECK(program.output == "");
}

TEST_CASE("join() and the destructor return after the last callback",
          "[pool][shutdown][callback]") {
    auto method = GENERATE(from_range(methods()));
    bool terminates = GENERATE(false, true);
    std::atomic<int> called{0};
    {
        mp::Pool pool({.processes = 2, .start_method = method});
        for (int i = 0; i < 50; ++i)
            pool.submit(spin_briefly).add_done_callback([&](const auto&) {
                for (int n = 0; n < 100; ++n) std::this_thread::yield();
                ++called;
            });
        if (terminates) pool.terminate();
    }
    CHECK(called == 50);
}

TEST_CASE("each of several threads that join() comes back after the last callback",
          "[pool][shutdown][callback]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    std::atomic<bool> called{false}, second_joins{false};
    std::atomic<int> wrong{0};
    pool.submit(test::add, 1, 2).add_done_callback([&](const auto&) {
        (void)test::eventually([&] { return second_joins.load(); });
        for (int n = 0; n < 10'000; ++n) std::this_thread::yield();
        called = true;
    });
    pool.close();
    auto join = [&] {
        pool.join();
        if (!called) ++wrong;
    };
    std::thread first(join);
    // The first one has seen all but the callback.
    CHECK(test::eventually([&] { return pool.worker_pids().empty(); }));
    std::thread second([&] {
        second_joins = true;
        join();
    });
    first.join();
    second.join();
    CHECK(wrong == 0);
}

// --- join_for() --------------------------------------------------------------------------------

TEMPLATE_TEST_CASE("join_for() says whether the pool has ended, and may be called again",
                   "[pool][threads][shutdown][join_for]", test::Processes, test::Threads) {
    TestType t;
    CHECK_THROWS_WITH(t.pool.join_for(1s), Catch::Contains("before close()"));
    test::SharedWords words(test::kWords);
    auto task = t.pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
    std::atomic<bool> called{false}, go_on{false}, refused{false};
    task.add_done_callback([&](const auto&) {
        try {
            (void)t.pool.join_for(0s);
        } catch (const std::logic_error&) {
            refused = true;
        }
        called = true;
        while (!go_on) std::this_thread::yield();
    });
    t.pool.close();
    CHECK_FALSE(t.pool.join_for(0s));
    CHECK_FALSE(t.pool.join_for(10ms));
    words[kGate] = 1;
    CHECK(test::eventually([&] { return called.load(); }));
    CHECK(refused);
    CHECK_FALSE(t.pool.join_for(10ms));  // the last callback is waited for, too
    go_on = true;
    CHECK(t.pool.join_for(test::kPatience));
    CHECK(t.pool.join_for(0s));
    t.pool.join();
    CHECK(get(task) == 1);
    TestType other;  // join() alone is enough, too
    other.pool.close();
    other.pool.join();
    CHECK(other.pool.join_for(0s));
}

TEST_CASE("a pool that does not end in time can be terminated", "[pool][shutdown][join_for]") {
    mp::Pool pool(test::with_each_method());
    test::SharedWords words(test::kWords);
    auto task = pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
    test::await(words[kTell]);
    std::vector<int> pids = pool.worker_pids();
    pool.close();
    CHECK_FALSE(pool.join_for(10ms));
    pool.terminate();
    CHECK(pool.join_for(test::kPatience));
    CHECK(all_gone(pids));
    CHECK_THROWS_AS(get(task), mp::CancelledError);
}

TEST_CASE("without workers, too, join_for() says whether the pool has ended",
          "[pool][shutdown][join_for]") {
    test::Inline t;
    CHECK_THROWS_WITH(t.pool.join_for(1s), Catch::Contains("before close()"));
    mp::Promise<int> promise;
    auto task = t.pool.submit(test::add, promise.future(), 1);
    std::atomic<bool> called{false}, go_on{false};
    task.add_done_callback([&](const auto&) {
        called = true;
        while (!go_on) std::this_thread::yield();
    });
    t.pool.close();
    CHECK_FALSE(t.pool.join_for(0s));
    CHECK_FALSE(t.pool.join_for(10ms));
    std::thread sets([&] { promise.set_value(1); });
    CHECK(test::eventually([&] { return called.load(); }));
    CHECK_FALSE(t.pool.join_for(10ms));  // the last callback is waited for, too
    go_on = true;
    CHECK(t.pool.join_for(test::kPatience));
    CHECK(t.pool.join_for(0s));
    sets.join();
    CHECK(get(task) == 2);
}

TEMPLATE_TEST_CASE("a pool may go after a join_for() that gave up, with tasks that wait in vain",
                   "[pool][threads][shutdown][join_for]", test::Pools, test::Threads) {
    mp::Promise<int> never;
    mp::Future<int> waiting;
    {
        TestType t;
        waiting = t.pool.submit(test::add, never.future(), 1);
        t.pool.close();
        CHECK_FALSE(t.pool.join_for(10ms));
    }
    CHECK_THROWS_AS(get(waiting), mp::CancelledError);
}

}  // namespace shutdown_test
