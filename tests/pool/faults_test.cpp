// Workers that are killed, stopped, or write nonsense: what it costs, and what it does not.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <stdexcept>

#include <catch2/catch.hpp>

#include "pool_support.hpp"

namespace faults_test {

namespace mp = sidestep;
using test::methods;
using namespace std::chrono_literals;

namespace {

void spin_for(std::chrono::microseconds time) {
    auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
    }
}
int spin_a_millisecond() {
    spin_for(1000us);
    return 1;
}
// Sets one word and waits for another.
int signal_and_wait(const std::string& path, std::size_t mine, std::size_t other) {
    test::SharedWords::Word* words = test::SharedWords::attach(path);
    words[mine] = 1;
    test::await(words[other]);
    return 1;
}
int start_grandchild(const std::string& path) {
    test::SharedWords::Word* words = test::SharedWords::attach(path);
    pid_t child = fork();
    if (child == 0)
        for (;;) pause();
    words[0] = static_cast<std::uint64_t>(child);
    test::await(words[1]);
    return 1;
}

// Overwrites the worker's own mappings of that name: with a byte, or with random ones.
void scribble(const std::string& what, int byte, unsigned seed) {
    std::ifstream maps("/proc/self/maps");
    std::mt19937 random(seed);
    for (std::string line; std::getline(maps, line);) {
        if (line.find(what) == std::string::npos) continue;
        std::uintptr_t begin = 0, end = 0;
        if (sscanf(line.c_str(), "%lx-%lx", &begin, &end) != 2) continue;
        auto* bytes = reinterpret_cast<unsigned char*>(begin);
        std::size_t size = std::min<std::size_t>(end - begin, 1 << 18);
        for (std::size_t i = 0; i < size; ++i)
            bytes[i] = static_cast<unsigned char>(byte >= 0 ? byte : static_cast<int>(random()));
    }
}
int scribble_task(const std::string& path, const std::string& what, int byte, unsigned seed) {
    test::wait_at(path, 0, 1);
    scribble(what, byte, seed);
    return 1;
}

void kill_all_but(const std::vector<int>& workers) {
    for (pid_t child : test::children_of(getpid()))
        if (std::find(workers.begin(), workers.end(), child) == workers.end()) kill(child, SIGKILL);
}

// Stops the process at once and for sure: returns when it is stopped.
void stop(int pid) {
    kill(pid, SIGSTOP);
    REQUIRE(test::eventually([&] { return test::process_state(pid) == 'T'; }));
}

template <class T>
T get(mp::Future<T>& future) {
    if (!future.wait_for(test::kPatience)) throw std::runtime_error("it hangs");
    return future.get();
}

}  // namespace

TEST_CASE("a worker killed while idle is replaced; it costs nothing, however often",
          "[pool][faults]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    CHECK(pool.apply(test::add, 1, 2) == 3);
    for (int round = 0; round < 20; ++round) {  // more than a crash loop takes
        REQUIRE(test::eventually([&] { return pool.worker_pids().size() == 2; }));
        int victim = pool.worker_pids()[static_cast<std::size_t>(round % 2)];
        kill(victim, SIGKILL);
        REQUIRE(test::eventually([&] {
            std::vector<int> pids = pool.worker_pids();
            return pids.size() == 2 && std::find(pids.begin(), pids.end(), victim) == pids.end();
        }));
        // It says that it is ready before the next is killed.
        mp::Future<int> one = pool.submit(test::add, round, 1), two = pool.submit(test::own_pid);
        CHECK(get(one) == round + 1);
        CHECK(get(two) > 0);
    }
}

TEST_CASE("a worker killed while it runs a task costs that task", "[pool][faults]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(2);
    mp::Pool pool({.processes = 2, .start_method = method});
    auto doomed = pool.submit(test::wait_at, words.path(), 0u, 1u);
    int victim = static_cast<int>(test::await(words[0]));
    mp::Future<int> other = pool.submit(test::add, 1, 2);
    kill(victim, SIGKILL);
    REQUIRE(doomed.wait_for(test::kPatience));
    try {
        doomed.get();
        FAIL_CHECK("no error");
    } catch (const mp::WorkerLost& error) {
        CHECK(error.pid() == victim);
        CHECK(error.exit_status().signal() == SIGKILL);
    }
    CHECK(get(other) == 3);
}

TEST_CASE("the tasks behind the one that ran are run by others, once, in order", "[pool][faults]") {
    auto method = GENERATE(from_range(methods()));
    constexpr std::size_t kTasks = 1000;
    test::SharedWords words(3 + kTasks);
    mp::Pool pool({.processes = 1, .start_method = method});
    // Tiny tasks first, so that the ring is filled deep.
    for (int i = 0; i < 500; ++i) pool.apply(test::add, 1, 2);
    auto doomed = pool.submit(test::wait_at, words.path(), 0u, 1u);
    test::await(words[0]);
    std::vector<mp::Future<std::uint64_t>> order, count;
    for (std::size_t i = 0; i < kTasks; ++i) {
        order.push_back(pool.submit(test::bump, words.path(), 2u));
        count.push_back(pool.submit(test::bump, words.path(), 3 + i));
    }
    kill(pool.worker_pids()[0], SIGKILL);
    for (std::size_t i = 0; i < kTasks; ++i) {
        CHECK(get(order[i]) == i);
        CHECK(get(count[i]) == 0);
    }
    CHECK_THROWS_AS(doomed.get(), mp::WorkerLost);
    for (std::size_t i = 0; i < kTasks; ++i) CHECK(words[3 + i] == 1);
}

TEST_CASE("a stopped worker delays its task alone", "[pool][faults][stop]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(2);
    mp::Pool pool({.processes = 2, .start_method = method});
    auto held = pool.submit(test::wait_at, words.path(), 0u, 1u);
    int stopped = static_cast<int>(test::await(words[0]));
    stop(stopped);
    std::vector<mp::Future<int>> others;
    for (int i = 0; i < 200; ++i) others.push_back(pool.submit(test::add, i, 1));
    for (int i = 0; i < 200; ++i) CHECK(get(others[static_cast<std::size_t>(i)]) == i + 1);
    words[1] = 5;
    CHECK_FALSE(held.wait_for(20ms));
    CHECK_FALSE(held.ready());
    kill(stopped, SIGCONT);
    CHECK(get(held) == 5);
}

TEST_CASE("a worker stopped while idle keeps no task to itself", "[pool][faults][stop]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    CHECK(pool.apply(test::add, 1, 2) == 3);
    for (int pid : pool.worker_pids()) {
        REQUIRE(test::eventually([&] { return test::process_state(pid) == 'S'; }));
        stop(pid);
        for (int i = 0; i < 3; ++i) {
            mp::Future<int> f = pool.submit(test::own_pid);
            CHECK(get(f) != pid);
        }
        std::vector<mp::Future<int>> many;
        for (int i = 0; i < 30; ++i) many.push_back(pool.submit(test::add, i, 1));
        for (int i = 0; i < 30; ++i) CHECK(get(many[static_cast<std::size_t>(i)]) == i + 1);
        kill(pid, SIGCONT);
    }
    mp::Pool single({.processes = 1, .start_method = method});
    int only = single.apply(test::own_pid);
    stop(only);
    mp::Future<int> waits = single.submit(test::add, 1, 2);
    CHECK_FALSE(waits.wait_for(20ms));
    kill(only, SIGCONT);
    CHECK(get(waits) == 3);
}

TEST_CASE("a stopped worker can be terminated", "[pool][faults][stop]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    stop(pool.apply(test::own_pid));
    mp::Future<int> waits = pool.submit(test::add, 1, 2);
    pool.terminate();
    pool.join();
    CHECK_THROWS_AS(waits.get(), mp::CancelledError);
}

TEST_CASE("a short task does not wait for a long one", "[pool][faults][order]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(2);
    mp::Pool pool({.processes = 2, .start_method = method});
    for (int i = 0; i < 1000; ++i) pool.apply(test::add, 1, 2);  // tasks are known to be tiny
    auto held = pool.submit(test::wait_at, words.path(), 0u, 1u);
    std::vector<mp::Future<int>> others;  // at once: some go behind it
    for (int i = 0; i < 100; ++i) others.push_back(pool.submit(test::add, i, 1));
    for (int i = 0; i < 100; ++i) CHECK(get(others[static_cast<std::size_t>(i)]) == i + 1);
    // Cancelled ones in between do not keep the others there.
    for (int round = 0; round < 20; ++round) {
        others.clear();
        for (int i = 0; i < 10; ++i) others.push_back(pool.submit(test::add, i, 1));
        for (std::size_t i : {9u, 7u, 3u}) (void)others[i].cancel();
        for (std::size_t i : {0u, 1u, 2u, 4u, 5u, 6u, 8u})
            CHECK(get(others[i]) == static_cast<int>(i) + 1);
    }
    words[1] = 1;
    CHECK(get(held) == 1);
}

TEST_CASE("a task may wait for one that is submitted later", "[pool][faults][order]") {
    auto method = GENERATE(from_range(methods()));
    for (int round = 0; round < 10; ++round) {
        test::SharedWords words(8);
        mp::Pool pool({.processes = 2, .start_method = method});
        for (int i = 0; i < 100 * (round % 3); ++i) pool.apply(test::add, 1, 2);
        mp::Future<int> first = pool.submit(signal_and_wait, words.path(), 0u, 1u);
        std::vector<mp::Future<int>> between;
        for (int i = 0; i < round; ++i) between.push_back(pool.submit(test::add, i, 1));
        mp::Future<int> second = pool.submit(signal_and_wait, words.path(), 1u, 0u);
        CHECK(get(first) == 1);
        CHECK(get(second) == 1);
    }
}

TEST_CASE("a task behind a long one overtakes what is submitted later, however much that is",
          "[pool][faults][order]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(2);
    mp::Pool pool({.processes = 2, .start_method = method});
    auto held = pool.submit(test::wait_at, words.path(), 0u, 1u);
    std::vector<mp::Future<int>> behind, later;
    for (int i = 0; i < 4; ++i) behind.push_back(pool.submit(test::add, i, 1));
    // The backlog never becomes empty, so nobody becomes idle.
    auto all_done = [&] {
        return std::all_of(behind.begin(), behind.end(), [](auto& f) { return f.ready(); });
    };
    auto give_up = std::chrono::steady_clock::now() + test::kPatience;
    for (int i = 0; i < 200; ++i) later.push_back(pool.submit(spin_a_millisecond));
    for (std::size_t next = 0; !all_done() && std::chrono::steady_clock::now() < give_up; ++next) {
        later.push_back(pool.submit(spin_a_millisecond));
        later[next].wait();
    }
    CHECK(all_done());
    words[1] = 1;
    CHECK(get(held) == 1);
    pool.terminate();
}

TEST_CASE("a worker that writes nonsense costs at most its task", "[pool][faults][scribble]") {
    auto method = GENERATE(from_range(methods()));
    std::string what = GENERATE("sidestep-ring", "sidestep-control");
    int byte = GENERATE(0, 0xff, 1, 2, 3, -1);  // each state of a slot, too
    CAPTURE(to_string(method), what, byte);
    constexpr std::size_t kTasks = 100;
    test::SharedWords words(2 + kTasks);
    auto begun = std::chrono::steady_clock::now();
    mp::Pool pool({.processes = 2, .start_method = method});
    for (int i = 0; i < 200; ++i) pool.apply(test::add, 1, 2);
    mp::Future<int> scribbler = pool.submit(scribble_task, words.path(), what, byte, 17u);
    test::await(words[0]);
    std::vector<mp::Future<std::uint64_t>> others;
    for (std::size_t i = 0; i < kTasks; ++i)
        others.push_back(pool.submit(test::bump, words.path(), 2 + i));
    words[1] = 1;
    REQUIRE(scribbler.wait_for(test::kPatience));
    try {
        int result = scribbler.get();
        CHECK(result == 1);
    } catch (const mp::WorkerLost& error) {
        CHECK_THAT(error.what(), Catch::Contains("died"));
    }
    for (auto& f : others) CHECK(get(f) == 0);
    for (std::size_t i = 0; i < kTasks; ++i) CHECK(words[2 + i] == 1);
    for (int i = 0; i < 50; ++i) {
        mp::Future<int> f = pool.submit(test::add, i, 1);
        CHECK(get(f) == i + 1);
    }
    // What it wrote over its own times is not believed beyond its life.
    mp::PoolStats stats = pool.stats();
    auto life = std::chrono::steady_clock::now() - begun;
    for (const mp::WorkerStats& worker : stats.workers)
        for (auto time : {worker.work, worker.wait, worker.init, worker.serialize}) {
            CHECK(time >= 0ns);
            CHECK(time <= (worker.restarts + 1) * life);
        }
}

TEST_CASE("what a killed worker had started is gone too", "[pool][faults]") {
    auto method = GENERATE(from_range(methods()));
    int signal = GENERATE(SIGKILL, SIGTERM);
    test::SharedWords words(2);
    mp::Pool pool({.processes = 1, .start_method = method});
    mp::Future<int> doomed = pool.submit(start_grandchild, words.path());
    auto grandchild = static_cast<pid_t>(test::await(words[0]));
    CHECK(test::process_exists(grandchild));
    kill(pool.worker_pids()[0], signal);
    CHECK_THROWS_AS(get(doomed), mp::WorkerLost);
    CHECK(test::eventually([&] { return !test::process_exists(grandchild); }));
    words[0] = 0;
    doomed = pool.submit(start_grandchild, words.path());
    grandchild = static_cast<pid_t>(test::await(words[0]));
    pool.terminate();
    pool.join();
    CHECK(test::eventually([&] { return !test::process_exists(grandchild); }));
}

TEST_CASE("a fork server that was killed is started again", "[pool][faults]") {
    mp::Pool pool({.processes = 2, .start_method = mp::StartMethod::forkserver});
    std::vector<int> before = pool.worker_pids();
    kill_all_but(before);
    for (int pid : before) kill(pid, SIGKILL);
    REQUIRE(test::eventually([&] {
        std::vector<int> now = pool.worker_pids();
        return now.size() == 2 && std::find_first_of(now.begin(), now.end(), before.begin(),
                                                     before.end()) == now.end();
    }));
    mp::Future<int> f = pool.submit(test::add, 1, 2);
    CHECK(get(f) == 3);
}

TEST_CASE("a forked pool whose template was killed goes on with its workers, then breaks",
          "[pool][faults][broken]") {
    mp::Pool pool({.processes = 2, .start_method = mp::StartMethod::fork});
    std::vector<int> workers = pool.worker_pids();
    kill_all_but(workers);
    CHECK(pool.apply(test::add, 1, 2) == 3);
    test::SharedWords words(2);
    auto held = pool.submit(test::wait_at, words.path(), 0u, 1u);
    int busy = static_cast<int>(test::await(words[0]));
    for (int pid : workers)
        if (pid != busy) kill(pid, SIGKILL);
    REQUIRE(test::eventually([&] { return pool.worker_pids().size() == 1; }));
    words[1] = 4;
    CHECK(get(held) == 4);  // the pool does not break while somebody works
    CHECK(pool.apply(test::add, 1, 2) == 3);
    kill(busy, SIGKILL);
    auto broken = [&] {
        mp::Future<int> f = pool.submit(test::add, 1, 2);
        return get(f);
    };
    CHECK_THROWS_AS(test::eventually([&] { return broken() == 0; }), mp::BrokenPool);
    CHECK_THROWS_WITH(broken(), Catch::Contains("the fork server (process") &&
                                    Catch::EndsWith("died of signal 9 (SIGKILL)"));
    pool.close();
    pool.join();
}

TEST_CASE("a dead worker whose descriptors live on elsewhere does not keep the supervisor busy",
          "[pool][faults]") {
    mp::Pool first({.processes = 2, .start_method = mp::StartMethod::fork});
    mp::Pool second({.processes = 1, .start_method = mp::StartMethod::fork});  // has first's too
    CHECK_THROWS_AS(first.apply(test::die, SIGKILL), mp::WorkerLost);
    CHECK(first.apply(test::add, 1, 2) == 3);
    CHECK(test::eventually([&] { return first.worker_pids().size() == 2; }));
    // Processor time that this process takes while it waits.
    auto processor_time = [] {
        timespec time = {};
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
        return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
    };
    test::SharedWords words(2);
    auto held = second.submit(test::wait_at, words.path(), 0u, 1u);
    test::await(words[0]);
    auto begin = std::chrono::steady_clock::now();
    auto used = processor_time();
    CHECK_FALSE(held.wait_for(300ms));
    CHECK(processor_time() - used < (std::chrono::steady_clock::now() - begin) / 2);
    words[1] = 1;
    CHECK(get(held) == 1);
}

TEST_CASE("two hundred workers", "[pool][faults][py:MiscTestCase.test_large_pool]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 200, .start_method = method});
    std::vector<long> items(5000), expected;
    for (std::size_t i = 0; i < items.size(); ++i) {
        items[i] = static_cast<long>(i);
        expected.push_back(items[i] * items[i]);
    }
    CHECK(pool.map(test::square, items) == expected);
    CHECK(pool.map(test::square, items, {.chunksize = 1}) == expected);
    CHECK(pool.worker_pids().size() == 200);
}

}  // namespace faults_test
