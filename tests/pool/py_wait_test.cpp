// What CPython's tests of wait() and as_completed() ask, and what they leave out: futures of
// several pools and of promises together.
#include <algorithm>
#include <memory>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include <sidestep/futures.hpp>

#include "policy_support.hpp"

namespace py_wait_test {

namespace mp = sidestep;
using mp::ReturnWhen;
using test::methods;
using namespace std::chrono_literals;

namespace {

using Ints = std::vector<mp::Future<int>>;

int divide(int a, int b) {
    if (b == 0) throw std::domain_error("division by zero");
    return a / b;
}
int hold(const std::string& path) { return static_cast<int>(test::wait_at(path, 0, 1)); }
int hold_and_throw(const std::string& path) {
    test::wait_at(path, 2, 3);
    throw std::domain_error("this is an exception");
}

std::set<const void*> ids(const Ints& futures) {
    std::set<const void*> set;
    for (const auto& f : futures) set.insert(f.state().get());
    return set;
}
bool same(const Ints& a, const Ints& b) { return a.size() == b.size() && ids(a) == ids(b); }

mp::Future<int> with_value(int x) {
    mp::Promise<int> promise;
    promise.set_value(x);
    return promise.future();
}
mp::Future<int> with_error() {
    mp::Promise<int> promise;
    promise.set_exception(std::make_exception_ptr(std::domain_error("failed before")));
    return promise.future();
}
mp::Future<int> with_cancel() {
    mp::Promise<int> promise;
    mp::Future<int> future = promise.future();
    (void)future.cancel();
    return future;
}

// A pool, and a task of it that runs until the end of the test.
struct Busy {
    explicit Busy(mp::StartMethod method)
        : pool({.processes = 2, .start_method = method}), held(pool.submit(hold, words.path())) {}
    ~Busy() { words[1] = 1; }
    test::SharedWords words{test::kWords};
    mp::Pool pool;
    mp::Future<int> held;
};

}  // namespace

TEST_CASE("a future that is given twice is one",
          "[pool][wait][py:WaitTests.test_20369][py:AsCompletedTests.test_duplicate_futures]") {
    auto method = GENERATE(from_range(methods()));
    Busy busy(method);
    auto [done, pending] = mp::wait(Ints{busy.held, busy.held}, ReturnWhen::all_completed, 10ms);
    CHECK(done.empty());
    CHECK(same(pending, {busy.held}));
    busy.words[1] = 5;
    auto second = mp::wait(Ints{busy.held, busy.held}, ReturnWhen::all_completed, test::kPatience);
    CHECK(same(second.done, {busy.held}));
    CHECK(second.pending.empty());
    std::size_t seen = 0;
    for (mp::Future<int>& f : mp::as_completed(Ints{busy.held, busy.held}, test::kPatience)) {
        CHECK(f.get() == 5);
        ++seen;
    }
    CHECK(seen == 1);
}

TEST_CASE("first_completed: one that is done is enough",
          "[pool][wait][py:WaitTests.test_first_completed]"
          "[py:WaitTests.test_first_completed_some_already_completed]") {
    auto method = GENERATE(from_range(methods()));
    Busy busy(method);
    mp::Promise<int> waits;
    mp::Future<int> product = busy.pool.submit(divide, 42, 2);
    auto result = mp::wait(Ints{waits.future(), product, busy.held}, ReturnWhen::first_completed,
                           test::kPatience);
    CHECK(same(result.done, {product}));
    CHECK(same(result.pending, {waits.future(), busy.held}));
    mp::Future<int> cancelled = with_cancel(), fine = with_value(1);
    result = mp::wait(Ints{cancelled, fine, busy.held}, ReturnWhen::first_completed);
    CHECK(same(result.done, {cancelled, fine}));
    CHECK(same(result.pending, {busy.held}));
}

TEST_CASE("first_exception: one that has failed is enough; to be cancelled is no failure",
          "[pool][wait][py:WaitTests.test_first_exception]"
          "[py:WaitTests.test_first_exception_some_already_complete]"
          "[py:WaitTests.test_first_exception_one_already_failed]") {
    auto method = GENERATE(from_range(methods()));
    Busy busy(method);
    mp::Future<int> fine = busy.pool.submit(divide, 42, 2);
    (void)test::get(fine);
    mp::Future<int> fails = busy.pool.submit(hold_and_throw, busy.words.path());
    std::thread later([&] {
        test::await(busy.words[2]);
        busy.words[3] = 1;
    });
    auto result =
        mp::wait(Ints{fine, fails, busy.held}, ReturnWhen::first_exception, test::kPatience);
    later.join();
    CHECK(same(result.done, {fine, fails}));
    CHECK(same(result.pending, {busy.held}));

    mp::Future<int> fails_too = busy.pool.submit(divide, 21, 0);
    mp::Future<int> cancelled = with_cancel(), known = with_value(1);
    result = mp::wait(Ints{known, cancelled, fails_too, busy.held}, ReturnWhen::first_exception,
                      test::kPatience);
    CHECK(same(result.done, {known, cancelled, fails_too}));
    CHECK(same(result.pending, {busy.held}));

    mp::Future<int> failed = with_error();
    result = mp::wait(Ints{failed, busy.held}, ReturnWhen::first_exception, test::kPatience);
    CHECK(same(result.done, {failed}));
    CHECK(same(result.pending, {busy.held}));
}

TEST_CASE("all_completed: whatever became of them",
          "[pool][wait][py:WaitTests.test_all_completed]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    Ints all{with_value(1), with_cancel(), with_error(), pool.submit(divide, 2, 0),
             pool.submit(divide, 4, 2)};
    auto result = mp::wait(all, ReturnWhen::all_completed, test::kPatience);
    CHECK(same(result.done, all));
    CHECK(result.pending.empty());
    result = mp::wait(all, ReturnWhen::first_exception);  // all are done: at once
    CHECK(same(result.done, all));
    CHECK(mp::wait(Ints{}).done.empty());
}

TEST_CASE("wait() ends with its timeout, and the tasks go on",
          "[pool][wait][py:WaitTests.test_timeout]") {
    auto method = GENERATE(from_range(methods()));
    Busy busy(method);
    Ints all{with_cancel(), with_error(), with_value(1), busy.held};
    for (std::chrono::nanoseconds timeout : {-1ns, 0ns, 1ns, 20'000'000ns}) {
        auto begin = std::chrono::steady_clock::now();
        auto result = mp::wait(all, ReturnWhen::all_completed, timeout);
        CHECK(std::chrono::steady_clock::now() - begin >= timeout);
        CHECK(same(result.done, {all[0], all[1], all[2]}));
        CHECK(same(result.pending, {busy.held}));
    }
    busy.words[1] = 9;
    CHECK(test::get(busy.held) == 9);
}

TEST_CASE("many are waited for while they are completed", "[pool][wait]") {
    auto method = GENERATE(from_range(methods()));
    for (int round = 0; round < 5; ++round) {
        test::SharedWords words(test::kWords);
        mp::Pool pool({.processes = 2, .start_method = method});
        Ints futures;
        for (int i = 0; i < 100; ++i) futures.push_back(pool.submit(hold, words.path()));
        words[1] = 1;
        auto result = mp::wait(futures, ReturnWhen::all_completed, test::kPatience);
        CHECK(result.done.size() == 100);
    }
}

TEST_CASE("as_completed: each once, those that are done first",
          "[pool][wait][py:AsCompletedTests.test_no_timeout]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    Ints all{with_cancel(), with_error(), with_value(1), pool.submit(divide, 42, 2),
             pool.submit(divide, 20, 4)};
    Ints completed;
    for (mp::Future<int>& f : mp::as_completed(all)) {
        CHECK(f.ready());
        completed.push_back(f);
    }
    CHECK(same(completed, all));
    CHECK(ids({completed[0], completed[1], completed[2]}) == ids({all[0], all[1], all[2]}));
    for (mp::Future<int>& f : mp::as_completed(Ints{})) FAIL_CHECK(f.describe());
}

TEST_CASE("as_completed throws when its timeout is over, after those that are done",
          "[pool][wait][py:AsCompletedTests.test_future_times_out]"
          "[py:AsCompletedTests.test_correct_timeout_exception_msg]"
          "[py:ExecutorTest.test_map_timeout]") {
    auto method = GENERATE(from_range(methods()));
    auto timeout = GENERATE(std::chrono::nanoseconds(0), std::chrono::nanoseconds(20ms));
    Busy busy(method);
    Ints all{with_cancel(), with_error(), with_value(1), busy.held};
    Ints completed;
    try {
        for (mp::Future<int>& f : mp::as_completed(all, timeout)) completed.push_back(f);
        FAIL_CHECK("no error");
    } catch (const mp::TimeoutError& error) {
        CHECK_THAT(error.what(), Catch::StartsWith("1 (of 4) futures unfinished"));
    }
    CHECK(same(completed, {all[0], all[1], all[2]}));
    mp::Future<std::vector<int>> map = busy.pool.map_async(  // the map itself goes on
        [](const std::string& path) { return path.empty() ? 0 : hold(path); },
        std::vector<std::string>{"", "", busy.words.path()}, {.chunksize = 1});
    CHECK_THROWS_AS(map.get(timeout), mp::TimeoutError);
    busy.words[1] = 6;
    CHECK(test::get(map) == std::vector<int>{0, 0, 6});
}

TEST_CASE("as_completed keeps no future longer than it is looked at",
          "[pool][wait][py:AsCompletedTests.test_free_reference_yielded_future]") {
    using Value = std::shared_ptr<int>;
    std::vector<mp::Promise<Value>> promises(8);
    std::vector<mp::Future<Value>> futures;
    std::vector<std::weak_ptr<int>> values;
    for (auto& promise : promises) {
        futures.push_back(promise.future());
        auto value = std::make_shared<int>(static_cast<int>(values.size()));
        values.push_back(value);
        promise.set_value(std::move(value));
    }
    auto completed = mp::as_completed(futures);
    promises.clear();
    futures.clear();
    std::size_t seen = 0;
    for (mp::Future<Value>& f : completed) {
        auto at = static_cast<std::size_t>(*f.get());
        for (std::size_t i = 0; i < values.size(); ++i)
            CHECK(values[i].expired() == (i < seen));  // in the order in which they were set
        CHECK(at == seen);
        ++seen;
    }
    CHECK(seen == 8);
    for (const auto& value : values) CHECK(value.expired());
}

TEST_CASE("as_completed of a promise's futures follows the order in which they are kept",
          "[pool][wait]") {
    std::vector<mp::Promise<int>> promises(4);
    Ints futures;
    for (auto& promise : promises) futures.push_back(promise.future());
    std::vector<int> order;
    auto completed = mp::as_completed(futures, test::kPatience);  // none is done yet
    std::thread thread([&] {
        for (std::size_t i : {2u, 0u, 3u, 1u}) promises[i].set_value(static_cast<int>(i));
    });
    for (mp::Future<int>& f : completed) order.push_back(f.get());
    thread.join();
    CHECK(order == std::vector<int>{2, 0, 3, 1});
}

TEST_CASE("futures of two pools and a promise are waited for together", "[pool][wait]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool one({.processes = 1, .start_method = method});
    REQUIRE(test::becomes_quiet());  // a sanitizer's heap is not forked while its thread starts
    mp::Pool two({.processes = 2, .start_method = method});
    test::SharedWords words(test::kWords);
    mp::Promise<int> promise;
    Ints all{promise.future(), two.submit(hold, words.path())};
    for (int i = 1; i <= 50; ++i) all.push_back((i % 2 ? one : two).submit(divide, 100 * i, i));
    CHECK(mp::wait(all, ReturnWhen::all_completed, 20ms).pending.size() >= 2);
    std::thread later([&] {
        test::await(words[0]);
        words[1] = 100;
        promise.set_value(100);
    });
    std::size_t seen = 0;
    for (mp::Future<int>& f : mp::as_completed(all, test::kPatience)) {
        CHECK(f.get() == 100);
        ++seen;
    }
    later.join();
    CHECK(seen == all.size());
    CHECK(mp::wait(all).done.size() == all.size());
}

TEST_CASE("a wait that gave up leaves nothing behind in its futures", "[pool][wait]") {
    auto method = GENERATE(from_range(methods()));
    Busy busy(method);
    for (int i = 0; i < 1000; ++i)
        CHECK(mp::wait(Ints{busy.held}, ReturnWhen::all_completed, 0ns).done.empty());
    auto iterated = mp::as_completed(Ints{busy.held, with_value(1)});
    CHECK((*iterated.begin()).get() == 1);  // and it is left there
    busy.words[1] = 3;
    CHECK(test::get(busy.held) == 3);
}

TEST_CASE("an empty future is refused", "[pool][wait]") {
    CHECK_THROWS_WITH(mp::wait(Ints{with_value(1), {}}), Catch::Contains("empty"));
    CHECK_THROWS_AS(mp::as_completed(Ints(1)), std::logic_error);
}

}  // namespace py_wait_test
