// Which worker gets a task, and when: priority, key, resize, pinning; what a task knows of itself.
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "policy_support.hpp"

namespace dispatch_test {

namespace mp = sidestep;
using test::get;
using test::kGate;
using test::kTell;
using test::methods;
using namespace std::chrono_literals;

namespace {

// A pool of one worker that is held until release().
struct Held {
    explicit Held(mp::StartMethod method, int lowest = 0)
        : pool({.processes = 1, .start_method = method}),
          held(pool.submit({.priority = lowest}, test::wait_at, words.path(), std::size_t(kTell),
                           std::size_t(kGate))) {
        test::await(words[kTell]);
    }
    ~Held() { release(); }
    void release() { words[kGate] = 1; }
    mp::Future<std::uint64_t> submit(int priority) {
        return pool.submit({.priority = priority}, test::bump, words.path(),
                           std::size_t(test::kCount));
    }

    test::SharedWords words{test::kWords};
    mp::Pool pool;
    mp::Future<std::uint64_t> held;
};

int worker_index() { return mp::this_worker::index(); }
std::uint64_t seed() { return mp::this_task::random_seed(); }
std::uint64_t seed_later(int us) {
    auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(us);
    while (std::chrono::steady_clock::now() < end) {
    }
    return mp::this_task::random_seed();
}
int count_here() { return ++mp::this_worker::local<int>(); }
std::vector<int> cpus_here() {
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    std::vector<int> cpus;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    return cpus;
}

}  // namespace

TEST_CASE("among the tasks that wait, the higher priority begins first, then the older",
          "[pool][priority]") {
    auto method = GENERATE(from_range(methods()));
    Held held(method);
    std::vector<int> priorities{0, 0, 5, -3, 7, 5, 0, 7, -3, 1};
    std::vector<mp::Future<std::uint64_t>> futures;
    for (int p : priorities) futures.push_back(held.submit(p));
    held.release();
    std::vector<std::pair<std::uint64_t, std::size_t>> order;
    for (std::size_t i = 0; i < futures.size(); ++i) order.emplace_back(get(futures[i]), i);
    std::sort(order.begin(), order.end());
    std::vector<std::size_t> begun;
    for (auto [at, i] : order) begun.push_back(i);
    CHECK(begun == std::vector<std::size_t>{4, 7, 2, 5, 9, 0, 1, 6, 3, 8});
}

TEST_CASE("a high priority overtakes also tasks that were handed out", "[pool][priority]") {
    auto method = GENERATE(from_range(methods()));
    int low = GENERATE(0, -1);
    mp::Pool warm({.processes = 1, .start_method = method});
    REQUIRE(test::becomes_quiet());  // a sanitizer's heap is not forked while its thread starts
    Held held(method);
    for (int round = 0; round < 20; ++round) {
        std::vector<mp::Future<std::uint64_t>> lows;
        for (int i = 0; i <= round; ++i) lows.push_back(held.submit(low));
        auto high = held.submit(low + 1);
        std::uint64_t before = held.words[test::kCount];
        held.release();
        CHECK(get(high) == before);
        for (std::size_t i = 0; i < lows.size(); ++i) CHECK(get(lows[i]) == before + 1 + i);
        held.words[kGate] = 0;
        held.words[kTell] = 0;
        held.held = held.pool.submit(test::wait_at, held.words.path(), std::size_t(kTell),
                                     std::size_t(kGate));
        test::await(held.words[kTell]);
    }
}

TEST_CASE("a priority is a pool's default, too", "[pool][priority]") {
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .task = {.priority = 5}});
    auto held = pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
    test::await(words[kTell]);
    auto bump = [&](auto... options) {
        return pool.submit(options..., test::bump, words.path(), std::size_t(test::kCount));
    };
    auto low = bump(mp::TaskOptions{.priority = 3});
    auto usual = bump();
    auto high = bump(mp::TaskOptions{.priority = 6});
    words[kGate] = 1;
    CHECK(get(high) == 0);
    CHECK(get(usual) == 1);
    CHECK(get(low) == 2);
}

TEST_CASE("a result does not wait for the task that its worker does next", "[pool][wait]") {
    auto method = GENERATE(from_range(methods()));
    bool waits = GENERATE(true, false);  // a thread waits, or only the supervisor looks
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    for (int round = 0; round < 20; ++round) {
        words[kGate] = words[kTell] = 0;
        std::atomic<int> told{0};
        std::vector<mp::Future<std::uint64_t>> quick;
        for (int us : {1, 10, 50, 10, 1}) {
            quick.push_back(pool.submit(seed_later, us));
            quick.back().add_done_callback([&](auto&) { ++told; });
        }
        auto endless =
            pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
        if (waits)
            for (auto& future : quick) get(future);
        CHECK(test::eventually([&] { return told == 5; }));
        test::await(words[kTell]);
        CHECK_FALSE(endless.ready());
        words[kGate] = 1;
        get(endless);
    }
}

TEST_CASE("a worker that starts late begins with the oldest task", "[pool][order]") {
    auto method = GENERATE(from_range(methods()));
    bool at_once = GENERATE(true, false);
    int before = GENERATE(0, 30);  // then several tasks wait behind one that runs
    test::SharedWords words(test::kWords), start(test::kWords);
    auto second_is_late = [](const std::string& path) {
        if (mp::this_worker::index() == 1) test::wait_at(path, kTell, kGate);
    };
    mp::Pool pool({.processes = 2,
                   .start_method = method,
                   .initializer = mp::bind(second_is_late, start.path())});
    for (int i = 0; i < before; ++i) pool.apply(seed_later, 50);
    auto held = pool.submit({.key = 2}, test::wait_at, words.path(), std::size_t(kTell),
                            std::size_t(kGate));
    test::await(words[kTell]);
    test::await(start[kTell]);
    auto producer = pool.submit(test::bump, words.path(), std::size_t(test::kExtra));
    auto consumer = pool.submit(test::wait_at, words.path(), std::size_t(test::kCount),
                                std::size_t(test::kExtra));
    if (!at_once) CHECK_FALSE(producer.wait_for(50ms));
    start[kGate] = 1;
    CHECK(get(producer) == 0);
    CHECK(get(consumer) == 1);
    words[kGate] = 1;
    CHECK(get(held) == 1);
}

TEST_CASE("tasks with the same key run in the same worker, in order", "[pool][key]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 3, .start_method = method});
    for (std::uint64_t key : {1u, 2u, 3u, 4u, 1'000'000u}) {
        std::vector<mp::Future<int>> futures;
        for (int i = 0; i < 50; ++i) {
            futures.push_back(pool.submit({.key = key}, test::own_pid));
            pool.submit(test::add, i, 1);
        }
        std::set<int> pids;
        for (auto& f : futures) pids.insert(get(f));
        CHECK(pids.size() == 1);
    }
    CHECK(get(pool.submit({.key = 9}, count_here)) == 1);
    CHECK(get(pool.submit({.key = 9}, count_here)) == 2);
}

TEST_CASE("tasks with a key wait for their worker, others do not", "[pool][key]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2, .start_method = method});
    auto held = pool.submit({.key = 1}, test::wait_at, words.path(), std::size_t(kTell),
                            std::size_t(kGate));
    auto worker = static_cast<int>(test::await(words[kTell]));
    std::vector<mp::Future<int>> same, others;
    for (int i = 0; i < 20; ++i) {
        same.push_back(pool.submit({.key = 1}, test::own_pid));
        others.push_back(pool.submit(test::own_pid));
    }
    for (auto& f : others) CHECK(get(f) != worker);
    for (auto& f : same) CHECK_FALSE(f.ready());
    CHECK(same[3].cancel());
    CHECK(same[19].cancel());
    words[kGate] = 1;
    for (std::size_t i : {0u, 1u, 2u, 4u, 18u}) CHECK(get(same[i]) == worker);
}

TEST_CASE("a key moves to the worker that replaces a dead one", "[pool][key]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    auto pid_of_key = [&] { return get(pool.submit({.key = 5}, test::own_pid)); };
    int before = pid_of_key();
    auto dies = pool.submit({.key = 5}, test::die, SIGKILL);
    std::vector<mp::Future<int>> behind;
    for (int i = 0; i < 20; ++i) behind.push_back(pool.submit({.key = 5}, test::own_pid));
    CHECK_THROWS_AS(get(dies), mp::WorkerLost);
    int after = pid_of_key();
    CHECK(after != before);
    for (auto& f : behind) CHECK(get(f) == after);
    kill(after, SIGKILL);
    CHECK(test::eventually([&] { return pid_of_key() != after; }));
}

TEST_CASE("a pool grows and shrinks while it works, and loses nothing", "[pool][resize]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    std::vector<mp::Future<long>> futures;
    std::vector<mp::Future<int>> keyed;
    auto load = [&] {
        for (long i = 0; i < 200; ++i) {
            futures.push_back(pool.submit(test::square, i));
            if (i % 10 == 0)
                keyed.push_back(pool.submit({.key = static_cast<std::uint64_t>(i)}, test::add,
                                            static_cast<int>(i), 1));
        }
    };
    for (unsigned workers : {4u, 1u, 3u, 2u, 6u, 1u}) {
        load();
        pool.resize(workers);
        CHECK(pool.processes() == workers);
        load();
        CHECK(test::eventually([&] { return pool.worker_pids().size() == workers; }));
    }
    for (std::size_t i = 0; i < futures.size(); ++i)
        CHECK(get(futures[i]) == static_cast<long>((i % 200) * (i % 200)));
    for (std::size_t i = 0; i < keyed.size(); ++i)
        CHECK(get(keyed[i]) == static_cast<int>(i % 20) * 10 + 1);
    std::set<int> indexes;
    for (int i = 0; i < 20; ++i) indexes.insert(get(pool.submit(worker_index)));
    CHECK(indexes == std::set<int>{0});
}

TEST_CASE("a new worker takes what waits; one too many finishes what it runs", "[pool][resize]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    auto held = pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
    auto first = static_cast<int>(test::await(words[kTell]));
    auto behind = pool.submit(test::own_pid);
    CHECK_FALSE(behind.wait_for(20ms));
    pool.resize(2);
    CHECK(get(behind) != first);
    words[kTell] = 0;
    auto second = pool.submit(test::wait_at, words.path(), std::size_t(kTell), std::size_t(kGate));
    test::await(words[kTell]);
    pool.resize(1);
    CHECK_FALSE(second.wait_for(50ms));
    words[kGate] = 3;
    CHECK(get(second) == 3);
    CHECK(get(held) == 3);
    CHECK(test::eventually([&] { return pool.worker_pids() == std::vector<int>{first}; }));
    CHECK(get(pool.submit(test::own_pid)) == first);
}

TEST_CASE("resize() has limits, and its errors say them", "[pool][resize]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    CHECK_THROWS_WITH(pool.resize(0), Catch::Contains("1 to 1024 workers"));
    CHECK_THROWS_AS(pool.resize(1025), std::invalid_argument);
    pool.resize(1);
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
    pool.close();
    CHECK_THROWS_AS(pool.resize(2), std::logic_error);
    mp::Pool inline_pool({.processes = 0});
    CHECK_THROWS_WITH(inline_pool.resize(2), Catch::Contains("processes = 0"));
}

TEST_CASE("a pool is resized by several threads while it works and workers die", "[pool][resize]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (unsigned t = 0; t < 3; ++t)
        threads.emplace_back([&, t] {
            for (unsigned i = 0; i < 15; ++i) {
                pool.resize(1 + (i + t) % 4);
                auto f = pool.submit(test::add, static_cast<int>(i), 1);
                if (i % 5 == 4) pool.submit(test::die, SIGKILL).wait();
                if (get(f) != static_cast<int>(i) + 1) ++wrong;
            }
        });
    for (std::thread& t : threads) t.join();
    CHECK(wrong == 0);
    pool.resize(2);
    CHECK(test::eventually([&] { return pool.worker_pids().size() == 2; }));
}

TEST_CASE("random seeds do not depend on the number of workers, nor on the start method",
          "[pool][seed]") {
    auto seeds = [](unsigned workers, mp::StartMethod method, std::uint64_t base) {
        mp::Pool pool({.processes = workers, .start_method = method, .seed = base});
        std::vector<mp::Future<std::uint64_t>> futures;
        for (int i = 0; i < 40; ++i) futures.push_back(pool.submit(seed_later, (i * 37) % 200));
        std::vector<std::uint64_t> result;
        for (auto& f : futures) result.push_back(get(f));
        return result;
    };
    std::vector<std::uint64_t> expected = seeds(1, mp::StartMethod::fork, 7);
    for (auto method : methods()) CHECK(seeds(3, method, 7) == expected);
    CHECK(seeds(0, mp::StartMethod::spawn, 7) == expected);
    std::vector<std::uint64_t> other = seeds(1, mp::StartMethod::fork, 8);
    expected.insert(expected.end(), other.begin(), other.end());
    CHECK(std::set<std::uint64_t>(expected.begin(), expected.end()).size() == 80);
}

TEST_CASE("a task that is run again has the same seed", "[pool][seed][retry]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 1, .start_method = method});
    auto log = [](const std::string& path) {
        test::SharedWords::attach(path)[mp::this_task::attempt()] = seed();
        throw std::domain_error("again");
    };
    CHECK_THROWS_AS(get(pool.submit({.retry = {.max_attempts = 3}}, log, words.path())),
                    std::domain_error);
    CHECK(words[1] != 0);
    CHECK(words[1] == words[2]);
    CHECK(words[1] == words[3]);
}

TEST_CASE("a task knows its number and its worker; others know nothing", "[pool]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    for (std::uint64_t n = 1; n <= 5; ++n)
        CHECK(get(pool.submit([] { return mp::this_task::number(); })) == n);
    CHECK(get(pool.submit(worker_index)) == 0);
    CHECK_THROWS_AS(get(pool.submit(test::die, SIGKILL)), mp::WorkerLost);
    CHECK(get(pool.submit(worker_index)) == 0);  // the replacement keeps it
    CHECK(mp::this_task::number() == 0);
    CHECK(mp::this_worker::index() == -1);
}

TEST_CASE("a worker's local object lives as long as the worker", "[pool]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    for (int i = 1; i <= 5; ++i) CHECK(get(pool.submit(count_here)) == i);
    CHECK_THROWS_AS(get(pool.submit(test::die, SIGKILL)), mp::WorkerLost);
    CHECK(get(pool.submit(count_here)) == 1);
}

TEST_CASE("pinned workers have one CPU each, of those this process may use", "[pool][pin]") {
    auto method = GENERATE(from_range(methods()));
    std::vector<int> usable = cpus_here();
    mp::Pool pool({.processes = static_cast<unsigned>(usable.size()) + 1,
                   .start_method = method,
                   .pin_workers = true});
    for (std::uint64_t key = 0; key < usable.size() + 1; ++key) {
        auto both = [] { return std::pair(worker_index(), cpus_here()); };
        auto [index, cpus] = get(pool.submit({.key = key}, both));
        CHECK(cpus == std::vector<int>{usable[static_cast<std::size_t>(index) % usable.size()]});
    }
    REQUIRE(test::becomes_quiet());
    mp::Pool loose({.processes = 1, .start_method = method});
    CHECK(get(loose.submit(cpus_here)) == usable);
}

TEST_CASE("two hundred workers on a few cores start, work, rest and stop", "[pool][large]") {
    auto method = GENERATE(from_range(methods()));
#ifdef TEST_SANITIZED
    constexpr unsigned kMany = 50;
#else
    constexpr unsigned kMany = 200;
#endif
    mp::Pool pool({.processes = kMany, .start_method = method, .task = {.timeout = 1h}});
    std::vector<long> items(2000), expected;
    for (std::size_t i = 0; i < items.size(); ++i) {
        items[i] = static_cast<long>(i);
        expected.push_back(items[i] * items[i]);
    }
    CHECK(pool.map(test::square, items, {.chunksize = 1}) == expected);
    CHECK(test::eventually([&] { return pool.worker_pids().size() == kMany; }));
    // No storm: nobody spins when there is nothing to do.
    auto time_of_workers = [&] {
        std::uint64_t ticks = 0;
        for (int pid : pool.worker_pids()) ticks += test::processor_ticks(pid);
        return ticks;
    };
    CHECK(test::becomes_quiet());
    CHECK(test::eventually([&] {
        std::uint64_t before = time_of_workers();
        (void)test::becomes_quiet();  // a tenth of a second
        return time_of_workers() - before <= 5;
    }));
    pool.close();
    pool.join();
    CHECK(pool.worker_pids().empty());
}

}  // namespace dispatch_test
