// What CPython's tests of Future ask, of a Promise's future and of a pool's.
//
// Python's half-way state "cancelled, but nobody was told" does not exist here: a cancelled future
// is done at once.
#include <atomic>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/promise.hpp>

#include "policy_support.hpp"

namespace py_future_test {

namespace mp = sidestep;
using namespace std::chrono_literals;

namespace {

std::exception_ptr error() { return std::make_exception_ptr(std::domain_error("doh!")); }

}  // namespace

TEST_CASE("a callback gets the future that has a value",
          "[pool][promise][callback][py:FutureTests.test_done_callback_with_result]") {
    mp::Promise<int> promise;
    int result = 0;
    promise.future().add_done_callback([&](const mp::Future<int>& f) { result = f.get(); });
    CHECK(result == 0);
    promise.set_value(5);
    CHECK(result == 5);  // in this thread, which set it
}

TEST_CASE("a callback gets the future that failed",
          "[pool][promise][callback][py:FutureTests.test_done_callback_with_exception]") {
    mp::Promise<int> promise;
    std::exception_ptr seen;
    promise.future().add_done_callback([&](const mp::Future<int>& f) { seen = f.exception(); });
    promise.set_exception(error());
    REQUIRE(seen);
    CHECK_THROWS_WITH(std::rethrow_exception(seen), "doh!");
}

TEST_CASE("a callback gets the future that was cancelled",
          "[pool][promise][callback][py:FutureTests.test_done_callback_with_cancel]") {
    mp::Promise<int> promise;
    bool cancelled = false;
    mp::Future<int> future = promise.future();
    future.add_done_callback([&](const mp::Future<int>& f) { cancelled = f.cancelled(); });
    CHECK(future.cancel());
    CHECK(cancelled);
}

TEST_CASE("a callback that throws is reported, and the next one is called",
          "[pool][promise][callback][py:FutureTests.test_done_callback_raises]") {
    mp::Promise<int> promise;
    bool raising_called = false, called = false;
    test::CapturedStderr stderr_text;
    promise.future().add_done_callback([&](const mp::Future<int>&) {
        raising_called = true;
        throw std::runtime_error("doh!");
    });
    promise.future().add_done_callback([&](const mp::Future<int>&) { called = true; });
    promise.set_value(5);
    CHECK(raising_called);
    CHECK(called);
    CHECK_THAT(stderr_text.text(), Catch::Contains("callback") && Catch::Contains("doh!"));
}

TEST_CASE("a callback of a future that is done is called at once",
          "[pool][promise][callback][py:FutureTests.test_done_callback_already_successful]"
          "[py:FutureTests.test_done_callback_already_failed]"
          "[py:FutureTests.test_done_callback_already_cancelled]") {
    mp::Promise<int> fine, failed, cancelled;
    fine.set_value(5);
    failed.set_exception(error());
    CHECK(cancelled.future().cancel());
    int result = 0;
    fine.future().add_done_callback([&](const mp::Future<int>& f) { result = f.get(); });
    CHECK(result == 5);
    std::exception_ptr seen;
    failed.future().add_done_callback([&](const mp::Future<int>& f) { seen = f.exception(); });
    REQUIRE(seen);
    CHECK_THROWS_AS(std::rethrow_exception(seen), std::domain_error);
    bool was_cancelled = false;
    cancelled.future().add_done_callback(
        [&](const mp::Future<int>& f) { was_cancelled = f.cancelled(); });
    CHECK(was_cancelled);
}

TEST_CASE("a callback that throws although the future is done already is reported, not thrown",
          "[pool][promise][callback][py:FutureTests.test_done_callback_raises_already_succeeded]") {
    mp::Promise<int> promise;
    promise.set_value(5);
    test::CapturedStderr stderr_text;
    promise.future().add_done_callback(
        [](const mp::Future<int>&) { throw std::runtime_error("doh!"); });
    CHECK_THAT(stderr_text.text(), Catch::Contains("callback") && Catch::Contains("doh!"));
    promise.future().add_done_callback([](const mp::Future<int>&) { throw 42; });
    CHECK_THAT(stderr_text.text(), Catch::Contains("callback threw\n"));
}

TEST_CASE("what waits can be cancelled, what runs or is finished can not",
          "[pool][promise][cancel][py:FutureTests.test_cancel]") {
    mp::Promise<int> waiting, running, failed, fine;
    CHECK(running.set_running_or_notify_cancel());
    failed.set_exception(error());
    fine.set_value(5);
    CHECK(waiting.future().cancel());
    CHECK(waiting.future().cancelled());
    CHECK_FALSE(running.future().cancel());
    CHECK(running.future().running());
    CHECK_FALSE(running.future().cancelled());
    CHECK(waiting.future().cancel());  // again
    CHECK(waiting.future().cancelled());
    CHECK_FALSE(waiting.set_running_or_notify_cancel());
    CHECK(waiting.future().cancel());
    CHECK_FALSE(failed.future().cancel());
    CHECK_FALSE(failed.future().cancelled());
    CHECK_FALSE(fine.future().cancel());
    CHECK(fine.future().get() == 5);
    running.set_value(6);
    CHECK(running.future().get() == 6);
}

TEST_CASE("running() is true from the beginning of the work to its end",
          "[pool][promise][py:FutureTests.test_running]") {
    mp::Promise<int> promise, cancelled, failed;
    CHECK_FALSE(promise.future().running());
    CHECK(promise.set_running_or_notify_cancel());
    CHECK(promise.future().running());
    promise.set_value(5);
    CHECK_FALSE(promise.future().running());
    CHECK(cancelled.future().cancel());
    CHECK_FALSE(cancelled.future().running());
    failed.set_exception(error());
    CHECK_FALSE(failed.future().running());
}

TEST_CASE("a result is set once", "[pool][promise][py:FutureTests.test_multiple_set_result]") {
    mp::Promise<int> promise;
    promise.set_value(1);
    CHECK_THROWS_AS(promise.set_value(2), mp::InvalidStateError);
    CHECK_THROWS_WITH(promise.set_value(2), Catch::Contains("has a result already"));
    CHECK_THROWS_AS(promise.set_exception(error()), mp::InvalidStateError);
    CHECK(promise.future().ready());
    CHECK(promise.future().get() == 1);
}

TEST_CASE("an error is set once", "[pool][promise][py:FutureTests.test_multiple_set_exception]") {
    mp::Promise<int> promise;
    std::exception_ptr first = error();
    promise.set_exception(first);
    CHECK_THROWS_AS(promise.set_exception(error()), mp::InvalidStateError);
    CHECK_THROWS_AS(promise.set_value(2), mp::InvalidStateError);
    CHECK(promise.future().exception() == first);
}

TEST_CASE("a future says what state it is in", "[pool][promise][py:FutureTests.test_repr]") {
    mp::Promise<int> promise, cancelled, failed, odd;
    CHECK(promise.future().describe() == "Future: waiting");
    CHECK(promise.set_running_or_notify_cancel());
    CHECK(promise.future().describe() == "Future: running");
    promise.set_value(1);
    CHECK(promise.future().describe() == "Future: finished with a value");
    CHECK(cancelled.future().cancel());
    CHECK(cancelled.future().describe() == "Future: cancelled");
    failed.set_exception(error());
    CHECK(failed.future().describe() == "Future: finished with an error: doh!");
    odd.set_exception(std::make_exception_ptr(42));
    CHECK(odd.future().describe() == "Future: finished with an error");
}

TEST_CASE("a cancelled promise takes no result", "[pool][promise]") {
    mp::Promise<int> promise;
    CHECK(promise.future().cancel());
    CHECK_THROWS_AS(promise.set_value(1), mp::InvalidStateError);
    CHECK_THROWS_WITH(promise.set_exception(error()), Catch::Contains("cancelled"));
    CHECK_THROWS_AS(promise.future().get(), mp::CancelledError);
}

TEST_CASE("work is begun once", "[pool][promise]") {
    mp::Promise<int> promise;
    CHECK(promise.set_running_or_notify_cancel());
    CHECK_THROWS_AS(promise.set_running_or_notify_cancel(), mp::InvalidStateError);
    promise.set_value(1);
    CHECK_THROWS_AS(promise.set_running_or_notify_cancel(), mp::InvalidStateError);
}

TEST_CASE("a promise that is dropped fails its future, whoever waits", "[pool][promise]") {
    mp::Future<int> future;
    bool called = false;
    {
        mp::Promise<int> promise, moved = std::move(promise);
        future = moved.future();
        future.add_done_callback([&](const mp::Future<int>&) { called = true; });
        mp::Promise<int> other;
        moved = std::move(other);  // what it had lives on in `other`, until the end of the scope
        CHECK_FALSE(future.ready());
    }
    CHECK(called);
    CHECK_THROWS_AS(future.get(), mp::PoolError);
    CHECK_THROWS_WITH(future.get(), Catch::Contains("dropped without a result"));
}

TEST_CASE("a value that cannot be copied is moved to the first who asks; none is no value",
          "[pool][promise]") {
    mp::Promise<std::unique_ptr<int>> promise;
    promise.set_value(std::make_unique<int>(7));
    CHECK(*promise.future().get() == 7);
    mp::Promise<void> nothing;
    bool called = false;
    nothing.future().on_value([&] { called = true; });
    nothing.set_value();
    nothing.future().get();
    CHECK(called);
}

TEST_CASE("a promise is kept in another thread", "[pool][promise]") {
    mp::Promise<std::string> promise;
    mp::Future<std::string> future = promise.future();
    std::thread thread([&] {
        if (promise.set_running_or_notify_cancel()) promise.set_value("done");
    });
    CHECK(future.wait_for(test::kPatience));
    CHECK(future.get() == "done");
    thread.join();
}

TEST_CASE("on_value and on_error are called for their outcome alone, and chain",
          "[pool][promise][callback]") {
    mp::Promise<int> fine, failed;
    std::vector<std::string> log;
    auto attach = [&](const mp::Promise<int>& promise) {
        promise.future()
            .on_value([&](int x) { log.push_back("value " + std::to_string(x)); })
            .on_error([&](std::exception_ptr) { log.push_back("error"); });
    };
    attach(fine);
    attach(failed);
    fine.set_value(3);
    failed.set_exception(error());
    CHECK(log == std::vector<std::string>{"value 3", "error"});
}

TEST_CASE("a callback may add callbacks, and look at the future", "[pool][promise][callback]") {
    mp::Promise<int> promise;
    std::vector<int> order;
    promise.future().add_done_callback([&](const mp::Future<int>& f) {
        order.push_back(1);
        f.add_done_callback([&](const mp::Future<int>& g) { order.push_back(g.get()); });
        order.push_back(2);
    });
    promise.set_value(7);
    CHECK(order == std::vector<int>{1, 7, 2});  // the inner one at once: the future is done
}

TEST_CASE("what a callback captured is freed when it was called", "[pool][promise][callback]") {
    mp::Promise<int> promise;
    auto watched = std::make_shared<int>(1);
    std::weak_ptr<int> gone = watched;
    promise.future().add_done_callback([held = std::move(watched)](const mp::Future<int>&) {});
    CHECK_FALSE(gone.expired());
    promise.set_value(1);
    CHECK(gone.expired());
}

}  // namespace py_future_test
