// What mpi4py's tests ask of how an executor begins and ends, and of what it sends: on a job of
// three hosts, where this one has one worker and the others two each.
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/futures.hpp>
#include <sidestep/remote_error.hpp>

#include "busy_hosts.hpp"

namespace mpi4py_start_test {

namespace {

using namespace std::chrono_literals;
using sidestep::BrokenPool;
using sidestep::Future;
using sidestep::Pool;
using test::Elsewhere;
using test::kGate;
using test::kOnHost1;
using test::SharedWords;
using test::ThreadJob;

void nothing(int) {}
void throws(int) { throw std::domain_error("this is an exception"); }
int magnitude(int x) { return std::abs(x); }
double power(int base, int exponent) { return std::pow(base, exponent); }
int hold_if(const std::string& path) { return path.empty() ? 0 : test::hold(path); }
void fail_at_gate(const std::string& path) {
    (void)test::hold(path);
    throw std::runtime_error("no licence");
}
void count(const std::string& path, std::size_t index) { ++SharedWords::attach(path)[index]; }

// A pool whose workers, of all hosts, fail before their first task, once the gate is open.
struct Failing {
    explicit Failing(const ThreadJob& job)
        : pool(job.options({.initializer = sidestep::bind(fail_at_gate, words.path())})) {}
    ~Failing() { words[kGate] = 1; }

    SharedWords words{test::kHostWords};
    Pool pool;
};

void breaks(const ThreadJob& job) {
    Failing failing(job);
    (void)failing.pool.submit({.key = kOnHost1}, nothing, 0).cancel();
    auto future = failing.pool.submit({.key = kOnHost1}, nothing, 0);
    failing.words[kGate] = 1;
    CHECK_THROWS_AS(future.get(), BrokenPool);
    CHECK_THROWS_AS(failing.pool.apply(nothing, 0), BrokenPool);
    CHECK_THROWS_AS(failing.pool.submit({.key = kOnHost1}, nothing, 0), BrokenPool);
}

// How many workers have begun, and have ended.
struct Counted {
    sidestep::PoolOptions options(const ThreadJob& job) {
        return job.options({.processes = 3,
                            .initializer = sidestep::bind(count, words.path(), std::size_t(0)),
                            .finalizer = sidestep::bind(count, words.path(), std::size_t(1))});
    }
    void check_all_gone() {
        CHECK(words[0] == 3);
        CHECK(words[1] == 3);
    }
    SharedWords words{2};
};

const std::vector<int> kMagnitudes{5, 4, 3, 2, 1, 0, 1, 2, 3, 4};

struct Variable {
    Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
    ~Variable() { ::unsetenv(name_); }
    const char* name_;
};

// --- what is sent ------------------------------------------------------------------------------

struct Parcel {
    int value = 0;
    mutable bool written = false;
    bool read = false;
    template <class Archive>
    void save(Archive& archive) const {
        written = true;
        archive(value);
    }
    template <class Archive>
    void load(Archive& archive) {
        read = true;
        archive(value);
    }
};
struct NotWritten {
    mutable bool tried = false;
    template <class Archive>
    void save(Archive&) const {
        tried = true;
        throw std::domain_error("it cannot be written");
    }
    template <class Archive>
    void load(Archive&) {}
};
struct NotRead {
    mutable bool written = false;
    template <class Archive>
    void save(Archive& archive) const {
        written = true;
        archive(1);
    }
    template <class Archive>
    void load(Archive&) {
        throw std::domain_error("it cannot be read");
    }
};
template <class T>
T back(T value) {
    return value;
}
template <class T>
T made(int) {
    return {};
}
Parcel parcel(int value) { return {.value = value}; }

std::string traceback_of(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const std::domain_error& known) {
        return sidestep::remote_traceback(known);
    }
}

}  // namespace

TEST_CASE("The hosts of a job outlast pools that break",
          "[cluster][mpi4py:SharedPoolInitTest.test_initializer_0]"
          "[mpi4py:SharedPoolInitTest.test_initializer_1]"
          "[mpi4py:SharedPoolInitTest.test_initializer_2]"
          "[mpi4py:SharedPoolInitTest.test_initializer_3]"
          "[mpi4py:MPICommExecutorTest.test_initializer]"
          "[mpi4py:MPICommExecutorTest.test_initializer_error]") {
    ThreadJob job(2);
    auto works = [&](const sidestep::PoolOptions& options, bool has_task) {
        Pool pool(options);
        if (has_task) CHECK_NOTHROW(pool.submit({.key = kOnHost1}, nothing, 0).get());
    };
    works(job.options({.initializer = sidestep::bind(nothing, 0)}), true);
    breaks(job);
    breaks(job);
    works(job.options({.initializer = sidestep::bind(nothing, 0)}), false);
    works(job.options({.initializer = sidestep::bind(nothing, 0)}), true);
    works(job.options(), true);
}

TEST_CASE("Threads have pools of their own over the same hosts",
          "[cluster][mpi4py:SharedPoolInitTest.test_initializer_4]") {
    ThreadJob job(2);
    std::atomic<unsigned> done{0}, wanted{0};
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 5; ++i)
        threads.emplace_back([&, i] {
            Pool pool(job.options({.initializer = sidestep::bind(nothing, 0)}));
            std::vector<Future<void>> futures;
            for (unsigned n = 0; n < pool.processes() + i; ++n)
                futures.push_back(pool.submit({.key = 1 + n % 5}, nothing, 0));
            wanted += static_cast<unsigned>(futures.size());
            for (auto& future : sidestep::as_completed(futures)) done += !future.exception();
        });
    for (std::thread& thread : threads) thread.join();
    CHECK(wanted == 5 * 5 + 0 + 1 + 2 + 3 + 4);
    CHECK(done == wanted);
}

TEST_CASE("The environment says how many workers the hosts have in all",
          "[cluster][mpi4py:ProcessPoolInitTest.test_init_args]"
          "[mpi4py:ProcessPoolInitTest.test_max_workers_environ]") {
    ThreadJob job(2);
    { Pool one(job.options({.processes = 1})); }
    Variable variable("SIDESTEP_PROCESSES", "2");
    Pool pool(job.options());
    CHECK(pool.processes() == 2);
    CHECK(pool.hosts().size() == 2);
    CHECK_NOTHROW(pool.submit({.key = kOnHost1}, nothing, 0).get());
    pool.shutdown();
    CHECK(pool.worker_pids().empty());
}

TEST_CASE("A pool whose workers fail on all hosts goes, when they have or before",
          "[cluster][mpi4py:ProcessPoolInitTest.test_initializer_error_del]"
          "[mpi4py:ProcessPoolInitTest.test_initializer_error_del_nowait]"
          "[mpi4py:MPICommExecutorTest.test_initializer_error_del]"
          "[mpi4py:MPICommExecutorTest.test_initializer_error_del_nowait]") {
    ThreadJob job(2);
    {
        Failing failed(job);
        auto future = failed.pool.submit({.key = kOnHost1}, nothing, 0);
        failed.words[kGate] = 1;
        CHECK_THROWS_AS(future.get(), BrokenPool);
    }
    {
        Failing fails(job);
        test::await(fails.words[test::kBegun]);
        fails.pool.shutdown({.wait = false});
        fails.words[kGate] = 1;
    }
    Pool after(job.options());
    CHECK_NOTHROW(after.submit({.key = kOnHost1}, nothing, 0).get());
}

TEST_CASE("A pool over hosts begins and ends without a task, waited for or not",
          "[cluster][mpi4py:ProcessPoolBootupTest.test_bootup]"
          "[mpi4py:ProcessPoolBootupTest.test_bootup_wait]"
          "[mpi4py:ProcessPoolBootupTest.test_bootup_nowait]"
          "[mpi4py:ProcessPoolBootupTest.test_bootup_nowait_wait]"
          "[mpi4py:ProcessPoolBootupTest.test_bootup_shutdown_nowait]"
          "[mpi4py:ProcessPoolShutdownTest.test_init_bootup_shutdown]") {
    ThreadJob job(2);
    bool waits_at_start = GENERATE(true, false), waits_at_end = GENERATE(true, false);
    Counted workers;
    {
        Pool pool(workers.options(job));
        if (waits_at_start) CHECK(test::eventually([&] { return workers.words[0] == 3; }));
        CHECK(pool.processes() == 3);
        pool.shutdown({.wait = waits_at_end});
        CHECK_THROWS_AS(pool.submit(nothing, 0), std::logic_error);
        CHECK_THROWS_AS(pool.submit({.key = kOnHost1}, nothing, 0), std::logic_error);
        if (waits_at_start) pool.shutdown();
    }
    // None is left: the listener looks. Those that were there have ended as they should.
    if (waits_at_start) workers.check_all_gone();
}

TEST_CASE("The workers of all hosts are gone with the pool, by its scope or before",
          "[cluster][mpi4py:ProcessPoolShutdownTest.test_context_manager_shutdown]"
          "[mpi4py:ProcessPoolShutdownTest.test_del_shutdown]") {
    ThreadJob job(2);
    Counted by_scope, by_hand;
    {
        Pool pool(by_scope.options(job));
        CHECK(pool.map(magnitude, test::numbers(-5, 5)) == kMagnitudes);
        CHECK(test::eventually([&] { return by_scope.words[0] == 3; }));
    }
    by_scope.check_all_gone();
    auto* pool = new Pool(by_hand.options(job));
    CHECK(pool->map(magnitude, test::numbers(-5, 5)) == kMagnitudes);
    CHECK(test::eventually([&] { return by_hand.words[0] == 3; }));
    pool->shutdown({.wait = false});
    delete pool;
    by_hand.check_all_gone();
}

TEST_CASE("starmap() over several hosts is as on one",
          "[cluster][mpi4py:ExecutorTestMixin.test_starmap]"
          "[mpi4py:ProcessPoolExecutorTest.test_starmap_chunksize]") {
    Elsewhere its;
    std::vector<std::tuple<int, int>> pairs;
    std::vector<double> expected;
    for (int i = 0; i < 40; ++i) {
        pairs.emplace_back(i, i);
        expected.push_back(std::pow(i, i));
    }
    CHECK(its.pool.starmap(power, pairs) == expected);
    for (std::size_t chunksize : std::vector<std::size_t>{6, 50, 40})
        CHECK(its.pool.starmap(power, pairs, {.chunksize = chunksize}) == expected);
}

TEST_CASE("A type is written here, read and written there, and read here",
          "[cluster][mpi4py:ProcessPoolPickleTest.test_good_pickle]") {
    Elsewhere its;
    Parcel sent{.value = 42};
    Parcel got = its.pool.submit({.key = kOnHost1}, back<Parcel>, sent).get();
    CHECK(sent.written);
    CHECK(got.read);
    CHECK(got.value == 42);
    got = its.pool.submit({.key = kOnHost1}, parcel, 77).get();
    CHECK(got.read);
    CHECK(got.value == 77);
}

TEST_CASE("What cannot be written is its own task's error, here or on the other host",
          "[cluster][mpi4py:ProcessPoolPickleTest.test_bad_pickle]"
          "[mpi4py:ProcessPoolPickleTest.test_exc_pickle]") {
    Elsewhere its;
    NotWritten bad;
    try {
        (void)its.pool.submit({.key = kOnHost1}, back<NotWritten>, bad);
        FAIL("it was written");
    } catch (const std::domain_error& error) {  // of this process
        CHECK(sidestep::remote_traceback(error).empty());
    }
    CHECK(bad.tried);
    CHECK_THROWS_AS(its.pool.submit({.key = kOnHost1}, made<NotWritten>, 0).get(),
                    std::domain_error);
    CHECK(its.pool.submit({.key = kOnHost1}, magnitude, -42).get() == 42);
}

TEST_CASE("What cannot be read is its own task's error, there or here",
          "[cluster][mpi4py:ProcessPoolPickleTest.test_bad_unpickle]"
          "[mpi4py:ProcessPoolPickleTest.test_exc_unpickle]") {
    Elsewhere its;
    NotRead bad;
    auto future = its.pool.submit({.key = kOnHost1}, back<NotRead>, bad);
    CHECK(bad.written);
    CHECK_THROWS_AS(future.get(), std::domain_error);
    CHECK_THAT(traceback_of(future.exception()), Catch::Contains("it cannot be read"));
    CHECK_THROWS_AS(its.pool.submit({.key = kOnHost1}, made<NotRead>, 0).get(), std::domain_error);
    CHECK(its.pool.submit({.key = kOnHost1}, magnitude, -42).get() == 42);
}

TEST_CASE("A job of one process has this host, and all works there",
          "[cluster][mpi4py:MPICommExecutorTest.test_self]"
          "[mpi4py:MPICommExecutorTest.test_default]") {
    for (int agents : {0, 2}) {
        ThreadJob job(agents);
        SharedWords words(test::kHostWords);
        Pool pool(job.options());
        CHECK(pool.hosts().size() == static_cast<std::size_t>(agents) + 1);
        auto first = pool.submit(nothing, 0), second = pool.submit(nothing, 0);
        CHECK_NOTHROW(first.get());
        CHECK_NOTHROW(second.get());
        CHECK(first.exception() == nullptr);
        auto failed = pool.submit(throws, 0);
        CHECK_THROWS_AS(failed.get(), std::domain_error);
        CHECK_THROWS_AS(std::rethrow_exception(failed.exception()), std::domain_error);
        CHECK(pool.map(magnitude, std::vector<int>{0, 0}) == std::vector<int>{0, 0});
        CHECK_NOTHROW(pool.map_async(nothing, std::vector<int>{0, 0}).get(test::kPatience));
        auto late = pool.map_async(hold_if, std::vector<std::string>{words.path(), ""});
        CHECK_THROWS_AS(late.get(0ns), sidestep::TimeoutError);
        words[kGate] = 1;
        CHECK(late.get(test::kPatience) == std::vector<int>{1, 0});
    }
}

}  // namespace mpi4py_start_test
