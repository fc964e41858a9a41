// What mpi4py's tests ask of futures that are made of others (its then, collect and compose), of
// tasks on other hosts. then() is a task of the same pool, submit(f, future) another spelling of
// it, and collect() is when_all(); what becomes of an error is made of a promise and a callback.
#include <chrono>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/promise.hpp>
#include <sidestep/when.hpp>

#include "busy_hosts.hpp"

namespace mpi4py_then_test {

namespace {

using sidestep::CancelledError;
using sidestep::Future;
using test::Elsewhere;
using test::kGate;
using test::kOnHost1;
using test::kOther;
using Ints = std::vector<Future<int>>;

int same(int x) { return x; }
int plus_one(int x) { return x + 1; }
int as_number(const std::string& text) { return std::stoi(text); }
std::string text_later(const std::string& path) { return std::to_string(test::hold(path)); }
int repackage(int x) { throw std::out_of_range(std::to_string(x) + " repackaged"); }
int fail_later(const std::string& path) {
    test::wait_at(path, test::kBegunToo, kOther);
    throw std::domain_error("sad");
}

// f(error) in place of an error: its value, or what it throws.
template <class T, class F>
Future<T> recover(const Future<T>& future, F f) {
    auto promise = std::make_shared<sidestep::Promise<T>>();
    future.add_done_callback([promise, f](const Future<T>& done) {
        try {
            std::exception_ptr error = done.exception();
            promise->set_value(error ? f(error) : done.get());
        } catch (...) {
            promise->set_exception(std::current_exception());
        }
    });
    return promise->future();
}
std::string message_of(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const std::domain_error& known) {
        return known.what();
    }
}

// A task on host2 that is to fail.
struct Failing : Elsewhere {
    Failing() : base(pool.submit({.key = 3}, fail_later, words.path())) {
        test::await(words[test::kBegunToo]);
    }
    void fail() { words[kOther] = 1; }
    Future<int> base;
};

}  // namespace

// --- then --------------------------------------------------------------------------------------

TEST_CASE("What follows a task on another host is cancelled with it",
          "[cluster][mpi4py:ThenTest.test_cancel_base][mpi4py:ComposeTest.test_cancel_new]") {
    Elsewhere its;
    Future<int> base = its.held();
    Future<int> next = base.then(same), composed = its.pool.submit(same, base);
    CHECK_FALSE(base.ready());
    CHECK_FALSE(next.ready());
    CHECK(base.cancel());
    CHECK(base.cancelled());
    CHECK_THROWS_AS(next.get(), CancelledError);
    CHECK_THROWS_AS(composed.get(), CancelledError);
    CHECK(next.cancelled());
    CHECK(composed.cancelled());
}

TEST_CASE("To cancel what follows leaves the task on another host alone",
          "[cluster][mpi4py:ThenTest.test_cancel_new]") {
    Elsewhere its;
    Future<int> base = its.held();
    Future<int> next = base.then(same);
    CHECK(next.cancel());
    CHECK(next.cancelled());
    CHECK_FALSE(base.ready());
    its.words[kGate] = 7;
    CHECK(base.get() == 7);
    CHECK_THROWS_AS(next.get(), CancelledError);
}

TEST_CASE("Several may follow one task, each with its value",
          "[cluster][mpi4py:ThenTest.test_then_multiple]"
          "[mpi4py:ThenTest.test_no_callbacks_and_success]"
          "[mpi4py:ThenTest.test_success_callback_and_success]") {
    Elsewhere its;
    Future<int> base = its.held();
    Ints next{base.then(same), base.then(same), base.then(plus_one)};
    for (auto& each : next) CHECK_FALSE(each.ready());
    CHECK_FALSE(base.ready());
    its.words[kGate] = 7;
    CHECK(next[0].get() == 7);
    CHECK(next[1].get() == 7);
    CHECK(next[2].get() == 8);
    for (auto& each : next) CHECK(each.exception() == nullptr);
    CHECK(base.ready());
}

TEST_CASE("What follows a task that failed has its error, or throws its own",
          "[cluster][mpi4py:ThenTest.test_no_callbacks_and_failure]"
          "[mpi4py:ThenTest.test_success_callback_and_failure_raised]") {
    Failing its;
    Future<int> next = its.base.then(same);
    CHECK_FALSE(next.ready());
    its.fail();
    CHECK_THROWS_AS(next.get(), std::domain_error);
    CHECK_THROWS_WITH(next.get(), "sad");
    Future<int> held = its.held();
    Future<int> repackaged = held.then(repackage);
    its.words[kGate] = 7;
    CHECK_THROWS_AS(repackaged.get(), std::out_of_range);
    CHECK_THROWS_WITH(repackaged.get(), "7 repackaged");
}

TEST_CASE("The error of a task on another host becomes another one, a value, or nothing",
          "[cluster][mpi4py:ThenTest.test_err_callback_and_failure_repackage]"
          "[mpi4py:ThenTest.test_err_callback_and_failure_raised]"
          "[mpi4py:ThenTest.test_err_callback_convert_to_success]"
          "[mpi4py:ThenTest.test_err_catch_ignore]"
          "[mpi4py:ComposeTest.test_except_hook]"
          "[mpi4py:ComposeTest.test_except_hook_except]"
          "[mpi4py:ComposeTest.test_except_hook_failure]") {
    Failing its;
    auto another = recover(its.base, [](const std::exception_ptr& error) -> int {
        throw std::out_of_range(message_of(error) + " repackaged");
    });
    auto value = recover(its.base, [](const std::exception_ptr& error) {
        return static_cast<int>(message_of(error).size());
    });
    auto ignored = recover(its.base, [](const std::exception_ptr&) { return 0; });
    Future<int> fine = recover(its.held(), [](const std::exception_ptr&) { return 0; });
    for (auto& each : {another, value, ignored}) CHECK_FALSE(each.ready());
    its.fail();
    CHECK_THROWS_AS(another.get(), std::out_of_range);
    CHECK_THROWS_WITH(another.get(), "sad repackaged");
    CHECK(value.get() == 3);
    CHECK(value.exception() == nullptr);
    CHECK(ignored.get() == 0);
    its.words[kGate] = 7;
    CHECK(fine.get() == 7);
}

// --- collect -----------------------------------------------------------------------------------

TEST_CASE("All of none is there at once", "[cluster][mpi4py:CollectTest.test_empty]") {
    auto all = sidestep::when_all(Ints());
    CHECK(all.ready());
    CHECK_FALSE(all.running());
    CHECK_FALSE(all.cancelled());
    CHECK(all.get().empty());
}

TEST_CASE("All values of tasks on several hosts, before they are done and after",
          "[cluster][mpi4py:CollectTest.test_item_success]"
          "[mpi4py:CollectTest.test_item_done]") {
    Elsewhere its;
    Ints each{its.held()};
    for (int i = 1; i < 5; ++i)
        each.push_back(its.pool.submit({.key = static_cast<std::uint64_t>(i)}, test::add, i, 0));
    auto all = sidestep::when_all(each);
    CHECK_FALSE(all.ready());
    CHECK_FALSE(all.running());
    CHECK_FALSE(all.cancelled());
    its.words[kGate] = 7;
    CHECK(all.get() == std::vector<int>{7, 1, 2, 3, 4});
    auto done = sidestep::when_all(each);
    CHECK(done.ready());
    CHECK_FALSE(done.cancelled());
    CHECK(done.get() == std::vector<int>{7, 1, 2, 3, 4});
}

TEST_CASE("Tasks on other hosts outlast that all of them were waited for",
          "[cluster][mpi4py:CollectTest.test_cancel_pending]") {
    Elsewhere its;
    Ints each{its.held(), its.pool.submit({.key = kOnHost1}, test::add, 1, 2)};
    auto all = sidestep::when_all(each);
    CHECK(all.cancel());
    CHECK(all.cancelled());
    for (auto& future : each) CHECK_FALSE(future.cancelled());
    its.words[kGate] = 7;
    CHECK(each[0].get() == 7);
    CHECK(each[1].get() == 3);
}

// --- compose -----------------------------------------------------------------------------------

TEST_CASE("A future of another host's task is an argument of one that follows",
          "[cluster][mpi4py:ComposeTest.test_result][mpi4py:ComposeTest.test_result_hook]"
          "[mpi4py:ComposeTest.test_result_hook_failure]") {
    Elsewhere its;
    Future<int> base = its.held();
    Future<int> same_value = its.pool.submit(same, base), fails = its.pool.submit(repackage, base);
    CHECK_FALSE(same_value.ready());
    CHECK_FALSE(same_value.running());
    CHECK_FALSE(same_value.cancelled());
    its.words[kGate] = 42;
    CHECK(same_value.get() == 42);
    CHECK_FALSE(same_value.cancelled());
    CHECK_THROWS_AS(fails.get(), std::out_of_range);
    Future<std::string> text = its.pool.submit({.key = kOnHost1}, text_later, its.words.path());
    CHECK(its.pool.submit(as_number, text).get() == 42);
}

TEST_CASE("An error of another host's task is that of one that follows",
          "[cluster][mpi4py:ComposeTest.test_except]") {
    Failing its;
    Future<int> next = its.pool.submit({.key = kOnHost1}, same, its.base);
    CHECK_FALSE(next.ready());
    CHECK_FALSE(next.running());
    its.fail();
    CHECK_THROWS_AS(next.get(), std::domain_error);
    CHECK_THROWS_WITH(next.get(), "sad");
    CHECK_FALSE(next.cancelled());
}

}  // namespace mpi4py_then_test
