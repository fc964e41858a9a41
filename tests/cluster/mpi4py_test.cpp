// What mpi4py's tests of its futures ask of a pool whose workers are on other hosts: two agents
// with two workers each, and the worker of this host is busy, so that the others do all of it.
#include <algorithm>
#include <chrono>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/futures.hpp>
#include <sidestep/promise.hpp>

#include "busy_hosts.hpp"

namespace mpi4py_test {

namespace {

using namespace std::chrono_literals;
using sidestep::Future;
using sidestep::Pool;
using sidestep::ReturnWhen;
using test::Elsewhere;
using test::kBegunToo;
using test::kGate;
using test::kOnHost1;
using test::kOther;
using test::Queued;
using test::ThreadJob;
using Ints = std::vector<Future<int>>;
using Sizes = std::vector<std::size_t>;

int divide(int a, int b) {
    if (b == 0) throw std::domain_error("division by zero");
    return a / b;
}
int multiply(int a, int b) { return a * b; }
int cube(int x) { return x * x * x; }
int hold_if(const std::string& path) { return path.empty() ? 0 : test::hold(path); }
int throw_later(const std::string& path) {
    test::wait_at(path, kBegunToo, kOther);
    throw std::domain_error("this is an exception");
}

Future<int> with_value() {
    sidestep::Promise<int> promise;
    promise.set_value(42);
    return promise.future();
}
Future<int> with_error() {
    sidestep::Promise<int> promise;
    promise.set_exception(std::make_exception_ptr(std::domain_error("failed before")));
    return promise.future();
}
Future<int> with_cancel() {
    sidestep::Promise<int> promise;
    Future<int> future = promise.future();
    (void)future.cancel();
    return future;
}
std::set<const void*> ids(const Ints& futures) {
    std::set<const void*> set;
    for (const auto& future : futures) set.insert(future.state().get());
    return set;
}
bool same(const Ints& a, const Ints& b) { return a.size() == b.size() && ids(a) == ids(b); }

}  // namespace

// --- making one, and its end -------------------------------------------------------------------

TEST_CASE("A pool of all hosts, of one worker, and of more than there can be",
          "[cluster][mpi4py:ProcessPoolInitTest.test_init]"
          "[mpi4py:ProcessPoolInitTest.test_max_workers]"
          "[mpi4py:ProcessPoolInitTest.test_max_workers_negative]") {
    ThreadJob job(2);
    { Pool all(job.options()); }
    Pool one(job.options({.processes = 1}));
    CHECK(one.processes() == 1);
    CHECK(one.hosts().size() == 1);
    one.shutdown();
    CHECK(one.worker_pids().empty());
    CHECK_THROWS_AS(Pool(job.options({.processes = static_cast<unsigned>(-1)})),
                    std::invalid_argument);
}

TEST_CASE("A pool over hosts that was shut down takes no more, and finishes what it has",
          "[cluster][mpi4py:ExecutorShutdownTestMixin.test_run_after_shutdown]"
          "[mpi4py:ExecutorShutdownTestMixin.test_hang_issue12364]"
          "[mpi4py:ProcessPoolShutdownTest.test_shutdown]") {
    ThreadJob job(2);
    Pool pool(job.options());
    Ints futures;
    for (unsigned i = 0; i < 50; ++i)
        futures.push_back(pool.submit({.key = 1 + i % 5}, multiply, 21, 2));
    pool.shutdown({.wait = false});
    CHECK_THROWS_AS(pool.submit(multiply, 2, 5), std::logic_error);
    pool.shutdown();
    CHECK_THROWS_AS(pool.submit({.key = kOnHost1}, multiply, 2, 5), std::logic_error);
    for (auto& future : futures) CHECK(future.get() == 42);
}

TEST_CASE(
    "What waits on a host is cancelled by a shutdown that says so, also after one that did not",
    "[cluster][mpi4py:ProcessPoolShutdownTest.test_submit_shutdown_cancel]") {
    Queued queued;
    queued.pool.shutdown({.wait = false});
    CHECK_FALSE(queued.waiting.back().cancelled());
    queued.pool.shutdown({.wait = false, .cancel_futures = true});
    // The host says which it had not begun.
    for (auto& future : queued.waiting) CHECK_THROWS_AS(future.get(), sidestep::CancelledError);
    queued.words[kGate] = 7;
    queued.pool.shutdown({.cancel_futures = true});
    CHECK(queued.runs.get() == 7);
}

TEST_CASE("What runs on a host is not cancelled by a shutdown, and can be waited for",
          "[cluster][mpi4py:ProcessPoolShutdownTest.test_submit_shutdown_cancel_wait]"
          "[mpi4py:ProcessPoolShutdownTest.test_shutdown_cancel]") {
    Queued queued;
    Ints all{queued.runs, queued.waiting.back(), queued.add()};
    queued.pool.shutdown({.wait = false, .cancel_futures = true});
    for (bool cancel : {false, false, true, true})
        queued.pool.shutdown({.wait = false, .cancel_futures = cancel});
    queued.words[kGate] = 7;
    auto result = sidestep::wait(all, ReturnWhen::all_completed, test::kPatience);
    CHECK(result.pending.empty());
    CHECK_FALSE(all[0].cancelled());
    CHECK(all[1].cancelled());
    CHECK(all[2].cancelled());
    queued.pool.shutdown({.cancel_futures = true});
    queued.pool.shutdown({.cancel_futures = true});
}

// --- wait() and as_completed() -----------------------------------------------------------------

TEST_CASE("wait() until the first of several hosts' tasks is done",
          "[cluster][mpi4py:WaitTestMixin.test_first_completed]"
          "[mpi4py:WaitTestMixin.test_first_completed_some_already_completed]") {
    Elsewhere its;
    Future<int> held = its.held();
    sidestep::Promise<int> waits;
    Future<int> product = its.pool.submit(multiply, 21, 2);
    auto result = sidestep::wait(Ints{waits.future(), product, held}, ReturnWhen::first_completed,
                                 test::kPatience);
    CHECK(same(result.done, {product}));
    CHECK(same(result.pending, {waits.future(), held}));
    Ints known{with_cancel(), with_value()};
    result = sidestep::wait(Ints{known[0], known[1], held}, ReturnWhen::first_completed);
    CHECK(same(result.done, known));
    CHECK(same(result.pending, {held}));
}

TEST_CASE("wait() until the first of several hosts' tasks has failed",
          "[cluster][mpi4py:WaitTestMixin.test_first_exception]"
          "[mpi4py:WaitTestMixin.test_first_exception_some_already_complete]"
          "[mpi4py:WaitTestMixin.test_first_exception_one_already_failed]") {
    Elsewhere its;
    Future<int> held = its.held();
    Future<int> product = its.pool.submit(multiply, 2, 21);
    CHECK(product.get() == 42);
    Future<int> fails = its.pool.submit({.key = 3}, throw_later, its.words.path());
    test::await(its.words[kBegunToo]);
    auto result = sidestep::wait(Ints{product, fails, held}, ReturnWhen::first_exception, 0ns);
    CHECK(same(result.done, {product}));
    its.words[kOther] = 1;
    result =
        sidestep::wait(Ints{product, fails, held}, ReturnWhen::first_exception, test::kPatience);
    CHECK(same(result.done, {product, fails}));
    CHECK(same(result.pending, {held}));

    Ints known{with_value(), with_cancel(), its.pool.submit(divide, 21, 0)};
    result = sidestep::wait(Ints{known[0], known[1], known[2], held}, ReturnWhen::first_exception,
                            test::kPatience);
    CHECK(same(result.done, known));
    CHECK(same(result.pending, {held}));

    Future<int> failed = with_error();
    result = sidestep::wait(Ints{failed, held}, ReturnWhen::first_exception);
    CHECK(same(result.done, {failed}));
    CHECK(same(result.pending, {held}));
}

TEST_CASE("wait() until all of several hosts' tasks are done, or for so long",
          "[cluster][mpi4py:WaitTestMixin.test_all_completed]"
          "[mpi4py:WaitTestMixin.test_timeout]") {
    Elsewhere its;
    Ints all{with_value(), with_cancel(), with_error(), its.pool.submit(divide, 2, 0),
             its.pool.submit(multiply, 2, 21)};
    auto result = sidestep::wait(all, ReturnWhen::all_completed, test::kPatience);
    CHECK(same(result.done, all));
    CHECK(result.pending.empty());
    Future<int> held = its.held();
    all.push_back(held);
    result = sidestep::wait(all, ReturnWhen::all_completed, 20ms);
    CHECK(result.done.size() == 5);
    CHECK(same(result.pending, {held}));
}

TEST_CASE("as_completed() over several hosts: each once, then the timeout",
          "[cluster][mpi4py:AsCompletedTestMixin.test_no_timeout]"
          "[mpi4py:AsCompletedTestMixin.test_zero_timeout]"
          "[mpi4py:AsCompletedTestMixin.test_nonzero_timeout]"
          "[mpi4py:AsCompletedTestMixin.test_duplicate_futures]") {
    Elsewhere its;
    Ints all{with_cancel(),
             with_error(),
             with_value(),
             its.pool.submit(multiply, 2, 21),
             its.pool.submit(multiply, 7, 6),
             its.pool.submit(multiply, 7, 6)};
    all.push_back(all.back());  // twice
    Ints completed;
    for (auto& future : sidestep::as_completed(all)) completed.push_back(future);
    CHECK(completed.size() == 6);
    CHECK(ids(completed) == ids(all));
    Future<int> held = its.held();
    for (std::chrono::nanoseconds timeout : {0ns, 20'000'000ns}) {
        Ints some{with_cancel(), with_error(), with_value(), held}, seen;
        CHECK_THROWS_AS(
            [&] {
                for (auto& future : sidestep::as_completed(some, timeout)) seen.push_back(future);
            }(),
            sidestep::TimeoutError);
        CHECK(same(seen, {some[0], some[1], some[2]}));
    }
}

// --- tasks and maps ----------------------------------------------------------------------------

TEST_CASE("A task on another host has its result; one that waits there is cancelled",
          "[cluster][mpi4py:ExecutorTestMixin.test_submit]"
          "[mpi4py:ExecutorTestMixin.test_submit_cancel]") {
    Queued queued;
    CHECK(queued.pool.submit({.key = 3}, cube, 2).get() == 8);
    Future<int> last = queued.add();
    CHECK(last.cancel());
    CHECK(last.cancelled());
    for (auto& future : queued.waiting) CHECK(future.cancel());
    for (auto& future : queued.waiting) CHECK(future.cancelled());
    queued.words[kGate] = 3;
    CHECK(queued.runs.get() == 3);
}

TEST_CASE("map() over several hosts is as on one, whatever its chunks and its window",
          "[cluster][mpi4py:ExecutorTestMixin.test_map]"
          "[mpi4py:ProcessPoolExecutorTest.test_map_chunksize]"
          "[mpi4py:ProcessPoolExecutorTest.test_map_buffersize]"
          "[mpi4py:ProcessPoolExecutorTest.test_map_unordered]"
          "[mpi4py:ProcessPoolExecutorTest.test_map_unordered_chunksize]") {
    Elsewhere its;
    std::vector<int> items = test::numbers(40), expected;
    for (int item : items) expected.push_back(cube(item));
    CHECK(its.pool.map(cube, items) == expected);
    for (std::size_t chunksize : Sizes{6, 50, 40}) {
        CHECK(its.pool.map(cube, items, {.chunksize = chunksize}) == expected);
        std::vector<int> unordered;
        for (int value : its.pool.imap_unordered(cube, items, {.chunksize = chunksize}))
            unordered.push_back(value);
        std::sort(unordered.begin(), unordered.end());
        CHECK(unordered == expected);
    }
    for (std::size_t window : Sizes{1, 2, 9, 10, 11})
        for (std::size_t chunksize : Sizes{1, 2, 9, 10, 11}) {
            std::vector<int> values;
            for (int value : its.pool.imap(cube, items, {.chunksize = chunksize, .window = window}))
                values.push_back(value);
            CHECK(values == expected);
        }
}

TEST_CASE("An item that throws on another host is an error in its place",
          "[cluster][mpi4py:ExecutorTestMixin.test_map_exception]"
          "[mpi4py:ProcessPoolExecutorTest.test_map_unordered_exception]") {
    Elsewhere its;
    std::vector<std::tuple<int, int>> items{{6, 2}, {6, 3}, {6, 0}, {6, 6}};
    auto divides = [](const std::tuple<int, int>& item) {
        return divide(std::get<0>(item), std::get<1>(item));
    };
    auto stream = its.pool.imap(divides, items, {.chunksize = 1});
    auto next = stream.begin();
    CHECK(*next == 3);
    CHECK(*++next == 2);
    CHECK_THROWS_AS(++next, std::domain_error);
    CHECK_THROWS_AS(its.pool.map(divides, items), std::domain_error);
    int errors = 0, sum = 0;
    for (auto& item : its.pool.imap_unordered(divides, items, {.chunksize = 1}).outcomes()) {
        if (item)
            sum += item.value();
        else
            ++errors;
    }
    CHECK(errors == 1);
    CHECK(sum == 6);
}

TEST_CASE("A map over several hosts that is not done in time goes on",
          "[cluster][mpi4py:ExecutorTestMixin.test_map_timeout]"
          "[mpi4py:ExecutorTestMixin.test_map_timeout_one]"
          "[mpi4py:ProcessPoolExecutorTest.test_map_unordered_timeout]"
          "[mpi4py:ProcessPoolExecutorTest.test_map_unordered_timeout_one]") {
    Elsewhere its;
    const std::vector<std::string> paths{"", "", its.words.path()};
    auto late = its.pool.map_async(hold_if, paths, {.chunksize = 1});
    CHECK_THROWS_AS(late.get(20ms), sidestep::TimeoutError);
    Ints each;
    for (const std::string& path : paths) each.push_back(its.pool.submit(hold_if, path));
    std::size_t seen = 0;
    auto first_two = [&] {
        for (auto& future : sidestep::as_completed(each, test::kPatience)) {
            CHECK(future.get() == 0);
            if (++seen == 2) break;
        }
    };
    first_two();
    CHECK_THROWS_AS(sidestep::as_completed(Ints{each[2]}, 20ms).begin(), sidestep::TimeoutError);
    its.words[kGate] = 6;
    CHECK(late.get(test::kPatience) == std::vector<int>{0, 0, 6});
    std::size_t completed = 0;
    for (auto& future : sidestep::as_completed(each, test::kPatience)) completed += future.ready();
    CHECK(completed == 3);
}

TEST_CASE("Many pools share the hosts' agents",
          "[cluster][mpi4py:ProcessPoolSubmitTest.test_multiple_executors]"
          "[mpi4py:ProcessPoolSubmitTest.test_shared_executors]") {
    ThreadJob job(2);
    std::vector<std::unique_ptr<Pool>> pools;
    for (int i = 0; i < 4; ++i) pools.push_back(std::make_unique<Pool>(job.options()));
    std::vector<Ints> futures(pools.size());
    for (int i = 0; i < 128; ++i)
        for (std::size_t p = 0; p < pools.size(); ++p)
            futures[p].push_back(pools[p]->submit({.key = static_cast<std::uint64_t>(1 + i % 5)},
                                                  test::add, i, static_cast<int>(1000 * p)));
    for (auto at = futures.rbegin(); at != futures.rend(); ++at)
        CHECK(sidestep::wait(*at, ReturnWhen::all_completed, test::kPatience).pending.empty());
    for (int i = 0; i < 128; ++i)
        for (std::size_t p = 0; p < pools.size(); ++p)
            CHECK(futures[p][static_cast<std::size_t>(i)].get() == i + static_cast<int>(1000 * p));
    for (const auto& pool : pools) CHECK(pool->processes() == 5);
}

}  // namespace mpi4py_test
