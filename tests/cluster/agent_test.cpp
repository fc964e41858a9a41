// A pool over several hosts: what tasks and policies do there. The job is one process:
// thread_job.hpp.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/futures.hpp>
#include <sidestep/value.hpp>

#include "pool_support.hpp"
#include "thread_job.hpp"

namespace agent_test {

namespace {

using namespace std::chrono_literals;
using sidestep::MapOptions;
using sidestep::Pool;
using test::SharedWords;
using test::ThreadJob;

// With one worker here, and two agents with two each: the key of a task that host1 runs.
constexpr std::uint64_t kOnHost1 = 1, kOnHost2 = 3;

std::string throws(int) { throw std::out_of_range("no such thing"); }
int dies(int signal) { return ::raise(signal); }
int fragile(int i) {
    if (i == 7) ::raise(SIGKILL);
    return 10 * i;
}
int stays(int) {
    sidestep::this_task::sleep_for(sidestep::Timeout::forever());  // style-ok: until it is to stop
    return 0;
}
int begins_and_stays(const std::string& path) {
    ++SharedWords::attach(path)[0];
    return stays(0);
}
std::vector<int> doubled(std::vector<int> values) {
    for (int& value : values) value *= 2;
    return values;
}
unsigned attempts(int until) {
    unsigned attempt = sidestep::this_task::attempt();
    if (attempt < static_cast<unsigned>(until)) throw std::runtime_error("not yet");
    return attempt;
}
std::uint64_t seed(int) { return sidestep::this_task::random_seed(); }
int process(int) { return ::getpid(); }
int prints(int i) {
    std::printf("item %d\n", i);
    return i;
}
int allocates(int mib) {
    std::vector<char> memory(static_cast<std::size_t>(mib) << 20, 'x');
    sidestep::this_task::sleep_for(sidestep::Timeout::forever());  // style-ok: until it is to stop
    return memory[7];
}
std::uint64_t tasks_on(const Pool& pool, const std::string& host) {
    for (const auto& row : pool.stats().hosts)
        if (row.name == host) return row.tasks;
    return 0;
}

}  // namespace

TEST_CASE("A pool has the workers of all hosts, and they all take part", "[cluster]") {
    ThreadJob job(2);
    Pool pool(job.options());
    CHECK(pool.processes() == 5);
    REQUIRE(pool.hosts().size() == 3);
    CHECK(pool.hosts()[0].name == sidestep::this_task::host());
    CHECK(pool.hosts()[1].name == "host1");
    CHECK(pool.hosts()[1].processes == 2);
    CHECK(pool.map(test::square, test::numbers(0L, 5000L))[4999] == 4999L * 4999L);
    std::vector<sidestep::Future<int>> sums;
    for (int i = 0; i < 500; ++i) sums.push_back(pool.submit(test::add, i, 1));
    for (int i = 0; i < 500; ++i) CHECK(sums[static_cast<std::size_t>(i)].get() == i + 1);
    CHECK(tasks_on(pool, "host1") > 0);
    CHECK(tasks_on(pool, "host2") > 0);
}

TEST_CASE("So many processes in all are wanted", "[cluster]") {
    ThreadJob job(2);
    for (unsigned wanted : {1u, 2u, 4u, 9u}) {
        Pool pool(job.options({.processes = wanted}));
        CHECK(pool.processes() == wanted);
        CHECK(pool.hosts().size() == std::min(wanted == 2 ? 2u : 3u, wanted));
        CHECK(pool.apply(test::add, 1, 2) == 3);
    }
    try {
        Pool too_many(job.options({.processes = 4'000'000'000}));
        FAIL("no host has so many");
    } catch (const std::invalid_argument& error) {
        CHECK_THAT(error.what(), Catch::Contains("processes is 4000000000"));
        CHECK_THAT(error.what(), Catch::Contains("1 to 1024 workers on each host"));
    }
    Pool inline_pool(job.options({.processes = 0}));
    CHECK(inline_pool.processes() == 0);
    CHECK(inline_pool.apply(process, 0) == ::getpid());
}

TEST_CASE("What a task throws on another host arrives by type, and is no failure of the host",
          "[cluster]") {
    ThreadJob job(1);
    Pool pool(job.options());
    auto future = pool.submit({.key = kOnHost1}, throws, 1);
    CHECK_THROWS_AS(future.get(), std::out_of_range);
    CHECK(tasks_on(pool, "host1") == 1);
    CHECK(pool.stats().hosts[1].failures == 0);
}

TEST_CASE("A task that crashes on another host costs its worker there, and says where",
          "[cluster]") {
    ThreadJob job(2);
    Pool pool(job.options());
    try {
        (void)pool.submit({.key = kOnHost2}, dies, SIGKILL).get();
        FAIL("it was lost");
    } catch (const sidestep::WorkerLost& error) {
        CHECK(error.host() == "host2");
        CHECK(error.exit_status().signal() == SIGKILL);
        CHECK(error.task() == 1);
        CHECK_THAT(error.what(), Catch::Contains("on host host2"));
        CHECK_THAT(error.what(), Catch::Contains("dies(int)"));
    }
    try {
        (void)pool.submit({.key = kOnHost2}, dies, SIGSEGV).get();
        FAIL("it was lost");
    } catch (const sidestep::WorkerLost& error) {  // its stack has crossed
        auto stack = error.stack();
        CHECK(std::any_of(stack.begin(), stack.end(), [](const std::string& frame) {
            return frame.find("dies(int)") != std::string::npos;
        }));
    }
    CHECK(pool.submit({.key = kOnHost2}, test::add, 1, 2).get() == 3);
    CHECK(pool.stats().hosts[2].failures == 2);
}

TEST_CASE("An item that crashes its worker costs a map that item alone, on whichever host",
          "[cluster]") {
    ThreadJob job(2);
    SharedWords words(1);
    Pool pool(job.options());
    // The worker of this host is busy: other hosts do all of it.
    auto busy = pool.submit({.key = 5}, begins_and_stays, words.path());
    REQUIRE(test::eventually([&] { return words[0] == 1; }));
    for (std::size_t chunk : {1u, 4u, 16u, 64u}) {
        int values = 0;
        std::vector<std::uint64_t> lost;
        for (auto& item : pool.imap(fragile, test::numbers(64), {.chunksize = chunk}).outcomes()) {
            if (item)
                values += item.value() / 10;
            else
                lost.push_back(item.index());
        }
        CHECK(values == 63 * 64 / 2 - 7);
        CHECK(lost == std::vector<std::uint64_t>{7});
    }
    auto stats = pool.stats();
    CHECK(stats.hosts[1].failures + stats.hosts[2].failures == 4);
    // With another attempt for it, what comes after still runs once.
    unsigned lost = 0, values = 0;
    MapOptions twice{.chunksize = 16, .task = {.retry = {.max_attempts = 2}}};
    for (auto& item : pool.imap_unordered(fragile, test::numbers(64), twice).outcomes())
        ++(item ? values : lost);
    CHECK(values == 63);
    CHECK(lost == 1);
    stats = pool.stats();
    CHECK(stats.hosts[1].failures + stats.hosts[2].failures == 6);
    CHECK(busy.cancel());
}

TEST_CASE("A map of which an item is late on another host goes on behind it", "[cluster]") {
    ThreadJob job(1);
    SharedWords words(1);
    Pool pool(job.options());
    auto busy = pool.submit({.key = 3}, begins_and_stays, words.path());
    REQUIRE(test::eventually([&] { return words[0] == 1; }));
    auto late = [](int i) { return i == 3 ? stays(i) : i; };
    MapOptions options{.chunksize = 8, .task = {.timeout = 50ms}};
    std::vector<std::size_t> lost;
    int values = 0;
    for (auto& item : pool.imap(late, test::numbers(16), options).outcomes()) {
        if (item)
            values += item.value();
        else
            lost.push_back(item.index());
    }
    CHECK(values == 15 * 16 / 2 - 3);
    CHECK(lost == std::vector<std::size_t>{3});
    CHECK(busy.cancel());
}

TEST_CASE("A task is run again, by its options, after what befell it on a host", "[cluster]") {
    ThreadJob job(1);
    Pool pool(job.options());
    CHECK(pool.submit({.retry = {.max_attempts = 4}, .key = kOnHost1}, attempts, 3).get() == 3);
    auto poison = pool.submit({.retry = {.max_attempts = 9, .max_crashes = 2}, .key = kOnHost1},
                              dies, SIGKILL);
    CHECK_THROWS_WITH(
        poison.get(),
        Catch::Contains("on host") &&
            Catch::Contains("after 2 of 9 attempts (no more: Retry::max_crashes is 2)"));
    CHECK(pool.stats().hosts[1].failures == 2);
    CHECK(pool.stats().retried == 3);
}

TEST_CASE("Timeouts and memory limits are kept on other hosts", "[cluster]") {
    ThreadJob job(1);
    Pool pool(job.options());
    auto late = pool.submit({.timeout = 20ms, .key = kOnHost1}, stays, 0);
    try {
        (void)late.get();
        FAIL("it was late");
    } catch (const sidestep::TaskTimeout& error) {
        CHECK(error.timeout() == 20ms);
        CHECK(error.host() == "host1");
    }
    auto large =
        pool.submit({.memory_limit = std::size_t(100) << 20, .key = kOnHost1}, allocates, 200);
    try {
        (void)large.get();
        FAIL("it was too large");
    } catch (const sidestep::OutOfMemory& error) {
        CHECK(error.limit() == std::size_t(100) << 20);
        CHECK(error.host() == "host1");
    }
}

TEST_CASE("A task that another host has is cancelled there", "[cluster]") {
    ThreadJob job(1, 1);
    Pool pool(job.options());
    auto first = pool.submit({.key = kOnHost1}, stays, 0);
    auto second = pool.submit({.key = kOnHost1}, test::add, 1, 2);
    CHECK(first.running());
    CHECK(first.cancel());
    CHECK_THROWS_AS(first.get(), sidestep::CancelledError);
    CHECK(second.get() == 3);  // the worker was stopped, or it would wait for ever
    auto third = pool.submit({.key = kOnHost1}, stays, 0);
    auto fourth = pool.submit({.key = kOnHost1}, test::add, 1, 2);
    CHECK(fourth.cancel());
    CHECK_THROWS_AS(fourth.get(), sidestep::CancelledError);
    CHECK(third.cancel());
    pool.close();
    pool.join();
    CHECK(pool.stats().cancelled == 3);
}

TEST_CASE("What waits on a host behind tasks that run long goes to another one", "[cluster]") {
    ThreadJob job(2);
    SharedWords here(2), host1(2), host2(2);
    Pool pool(job.options());
    CHECK(pool.map(test::square, test::numbers(0L, 5000L)).size() == 5000);  // tasks are short
    // All five workers are busy; what comes now is given out in advance.
    std::vector<sidestep::Future<std::uint64_t>> busy;
    for (unsigned key : {5u, 1u, 2u, 3u, 4u})
        busy.push_back(pool.submit({.key = key}, test::wait_at,
                                   (key == 5  ? here
                                    : key < 3 ? host1
                                              : host2)
                                       .path(),
                                   0, 1));
    std::vector<sidestep::Future<int>> futures;
    for (int i = 0; i < 200; ++i) futures.push_back(pool.submit(test::add, i, 1));
    host2[1] = 1;
    auto result = sidestep::wait(futures, sidestep::ReturnWhen::all_completed, test::kPatience);
    CHECK(result.pending.empty());
    here[1] = host1[1] = 1;
    for (auto& future : busy) CHECK(future.get() == 1);
    for (int i = 0; i < 200; ++i) CHECK(futures[static_cast<std::size_t>(i)].get() == i + 1);
}

TEST_CASE("shutdown() cancels what waits on other hosts; terminate() ends what runs", "[cluster]") {
    ThreadJob job(1, 1);
    {
        Pool pool(job.options());
        auto runs = pool.submit({.key = kOnHost1}, stays, 0);
        auto waits = pool.submit({.key = kOnHost1}, test::add, 1, 2);
        pool.shutdown({.wait = false, .cancel_futures = true});
        CHECK_THROWS_AS(waits.get(), sidestep::CancelledError);
        pool.terminate();
        pool.join();
        CHECK_THROWS_AS(runs.get(), sidestep::CancelledError);
    }
    Pool after(job.options());
    CHECK(after.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
}

TEST_CASE("Large arguments and results cross, with several on their way", "[cluster]") {
    ThreadJob job(2);
    Pool pool(job.options());
    std::vector<sidestep::Future<std::vector<int>>> futures;
    for (std::size_t size : {std::size_t(10), std::size_t(20'000), std::size_t(2) << 20})
        for (std::uint64_t key : {kOnHost1, kOnHost2})
            for (int i = 0; i < 3; ++i)
                futures.push_back(
                    pool.submit({.key = key}, doubled, std::vector<int>(size, i + 1)));
    for (std::size_t i = 0; i < futures.size(); ++i) {
        std::vector<int> result = futures[i].get();
        CHECK(result.front() == 2 * static_cast<int>(i % 3 + 1));
        CHECK(result.back() == result.front());
    }
}

TEST_CASE("Large arguments come to the memory of the pool whose workers read them", "[cluster]") {
    ThreadJob job(1);
    auto output = GENERATE(sidestep::Output::pass, sidestep::Output::lines);
    Pool pool(job.options({.output = output}));
    CHECK(pool.submit({.key = kOnHost1}, doubled, std::vector<int>(10, 1)).get().back() == 2);
    CHECK(job.placed() == 0);
    std::vector<sidestep::Future<std::vector<int>>> futures;
    for (int i = 1; i <= 5; ++i)
        futures.push_back(pool.submit({.key = kOnHost1}, doubled, std::vector<int>(300'000, i)));
    for (int i = 1; i <= 5; ++i)
        CHECK((futures[static_cast<std::size_t>(i) - 1].get() == std::vector<int>(300'000, 2 * i)));
    CHECK(job.placed() == 5);
}

TEST_CASE("Tasks with one key have one worker, on the host that the key names", "[cluster]") {
    ThreadJob job(2);
    Pool pool(job.options());
    std::set<int> all;
    for (std::uint64_t key = 1; key <= 10; ++key) {
        int first = pool.submit({.key = key}, process, 0).get();
        for (int i = 0; i < 3; ++i) CHECK(pool.submit({.key = key}, process, 0).get() == first);
        all.insert(first);
    }
    CHECK(all.size() >= 3);
}

TEST_CASE("A retry by a key of another host does not wait for this host's workers", "[cluster]") {
    ThreadJob job(1);
    SharedWords words(2);
    Pool pool(job.options());
    // This host's worker has all it can hold, and what comes behind that waits for it.
    constexpr std::uint64_t kOnThisHost = 3;
    std::vector<sidestep::Future<std::uint64_t>> here;
    for (int i = 0; i < 2000; ++i)
        here.push_back(pool.submit({.key = kOnThisHost}, test::wait_at, words.path(), 0, 1));
    auto pause = GENERATE(0ms, 1ms);
    auto future =
        pool.submit({.retry = {.max_attempts = 3, .backoff = pause}, .key = kOnHost1}, attempts, 3);
    CHECK(future.get(test::kPatience) == 3);
    CHECK(tasks_on(pool, "host1") == 3);
    words[1] = 1;
    for (auto& each : here) CHECK(each.get() == 1);
}

TEST_CASE("Numbers and seeds of tasks are the same wherever they run", "[cluster]") {
    auto seeds = [](const sidestep::PoolOptions& options, std::uint64_t key) {
        Pool pool(options);
        std::vector<std::uint64_t> all;
        for (int i = 0; i < 3; ++i) all.push_back(pool.submit({.key = key}, seed, i).get());
        auto of_items = pool.map(seed, test::numbers(100));
        all.insert(all.end(), of_items.begin(), of_items.end());
        return all;
    };
    ThreadJob job(1);
    CHECK(seeds(job.options({.seed = 42}), kOnHost1) ==
          seeds({.processes = 1, .seed = 42}, kOnHost1));
}

TEST_CASE("What a task prints on another host is captured", "[cluster]") {
    ThreadJob job(1);
    Pool pool(job.options({.output = sidestep::Output::capture}));
    auto future = pool.submit({.key = kOnHost1}, prints, 17);
    CHECK(future.get() == 17);
    CHECK(future.output().out == "item 17\n");
}

TEST_CASE("An initializer runs in the workers of all hosts",
          "[cluster][mpi4py:ProcessPoolInitTest.test_initializer]") {
    ThreadJob job(1);
    SharedWords counts(2);
    auto count = [](const std::string& path, std::size_t index) {
        ++SharedWords::attach(path)[index];
    };
    {
        Pool pool(job.options({.initializer = sidestep::bind(count, counts.path(), std::size_t(0)),
                               .finalizer = sidestep::bind(count, counts.path(), std::size_t(1))}));
        CHECK(pool.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
    }
    CHECK(counts[0] == 3);
    CHECK(counts[1] == 3);
}

TEST_CASE("An initializer that fails on another host breaks the pool, which names the host",
          "[cluster][mpi4py:ProcessPoolInitTest.test_initializer_error]") {
    ThreadJob job(1);
    int here = ::getpid();
    auto fails_elsewhere = [](int parent) {
        if (::getppid() == parent && sidestep::this_worker::index() == 1)
            throw std::runtime_error("no licence");
    };
    Pool pool(job.options({.initializer = sidestep::bind(fails_elsewhere, here)}));
    auto future = pool.submit({.key = kOnHost1}, test::add, 1, 2);
    try {
        (void)future.get();
        FAIL("the pool is broken");
    } catch (const sidestep::BrokenPool& error) {
        CHECK_THAT(error.what(), Catch::Contains("no licence"));
        CHECK_THAT(error.what(), Catch::Contains("on host host1"));
    }
    CHECK_THROWS_AS(pool.submit(test::add, 1, 2), sidestep::BrokenPool);
}

TEST_CASE("No answer is awaited from another host for the tasks of a pool that is broken there",
          "[cluster]") {
    ThreadJob job(1);
    auto fails_elsewhere = [](int parent) {
        if (::getppid() == parent && sidestep::this_worker::index() == 1)
            throw std::runtime_error("no licence");
    };
    Pool pool(job.options({.initializer = sidestep::bind(fails_elsewhere, int(::getpid()))}));
    std::vector<sidestep::Future<int>> futures;
    try {
        for (int i = 0; i < 10; ++i)
            futures.push_back(pool.submit({.key = kOnHost1}, test::add, i, 2));
    } catch (const sidestep::BrokenPool&) {
    }
    for (auto& future : futures) CHECK_THROWS_AS(future.get(), sidestep::BrokenPool);
    CHECK(test::eventually([&] { return job.is_calm(); }));
}

TEST_CASE("Handles of shared objects are refused, with the reason", "[cluster]") {
    ThreadJob job(1);
    sidestep::Value<int> value(1);
    auto reads = [](sidestep::Value<int> shared) { return shared.value(); };
    Pool pool(job.options());
    CHECK_THROWS_AS(pool.submit(reads, value), std::invalid_argument);
    try {
        (void)pool.submit(reads, value);
    } catch (const std::invalid_argument& error) {
        CHECK_THAT(error.what(), Catch::Contains("exists on this host alone"));
    }
    CHECK_THROWS_AS(
        Pool(job.options({.initializer = sidestep::bind(
                              [](sidestep::Value<int> shared) { (void)shared.value(); }, value)})),
        std::invalid_argument);
    CHECK_THROWS_AS(pool.resize(7), std::logic_error);
    CHECK(pool.apply(test::add, 1, 2) == 3);  // it goes on
}

TEST_CASE("Several pools share the hosts, at once and one after the other", "[cluster]") {
    ThreadJob job(2);
    for (int round = 0; round < 2; ++round) {
        Pool first(job.options()), second(job.options({.processes = 4}));
        auto a = first.map_async(test::square, test::numbers(0L, 1000L));
        auto b = second.map_async(test::square, test::numbers(0L, 1000L));
        CHECK(a.get() == b.get());
        first.terminate();
        CHECK(second.submit({.key = kOnHost1}, test::add, 1, 2).get() == 3);
    }
}

}  // namespace agent_test
