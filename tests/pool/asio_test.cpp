// <sidestep/asio.hpp>: results in an event loop of Asio's. Compiled once for each of the two.
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>  // which Boost 1.74 forgets

#ifdef SIDESTEP_USE_BOOST_ASIO
#include <boost/asio.hpp>
namespace net = boost::asio;
#else
#include <asio.hpp>
namespace net = asio;
#endif

#include <catch2/catch.hpp>
#include <sidestep/asio.hpp>
#include <sidestep/event.hpp>
#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

namespace asio_test {

namespace {

int doubled(int n) { return 2 * n; }
std::string refuse(int) { throw std::domain_error("not this one"); }
int wait_for(sidestep::Event event, int n) {
    event.wait();
    return n;
}

}  // namespace

TEST_CASE("an event loop is called with a future's result", "[pool][asio]") {
    sidestep::Pool pool({.processes = 1});
    net::io_context loop;
    const auto loop_thread = std::this_thread::get_id();
    int sum = 0, calls = 0;
    auto add = net::bind_executor(loop, [&](std::exception_ptr error, int n) {
        CHECK_FALSE(error);
        CHECK(std::this_thread::get_id() == loop_thread);
        sum += n;
        ++calls;
    });
    sidestep::Future<int> done = pool.submit(doubled, 1);
    done.wait();
    async_get(done, add);  // also one that is done is not called at once
    CHECK(calls == 0);
    async_get(pool.submit(doubled, 20), add);
    async_get(pool.submit([] {}), net::bind_executor(loop, [&](std::exception_ptr error) {
                  CHECK_FALSE(error);
                  ++calls;
              }));
    loop.run();  // it has work until the last of them is there
    CHECK(calls == 3);
    CHECK(sum == 42);
    CHECK_THROWS_AS(async_get(sidestep::Future<int>(), add), std::logic_error);
}

TEST_CASE("an event loop is called with what a task threw", "[pool][asio]") {
    sidestep::Pool pool({.processes = 1});
    net::io_context loop;
    std::string told;
    async_get(pool.submit(refuse, 1),
              net::bind_executor(loop, [&](std::exception_ptr error, std::string value) {
                  CHECK(value.empty());
                  try {
                      std::rethrow_exception(error);
                  } catch (const std::domain_error& e) {
                      told = e.what();
                  }
              }));
    loop.run();
    CHECK(told == "not this one");
}

TEST_CASE("an event loop goes on while a task runs", "[pool][asio]") {
    sidestep::Pool pool({.processes = 1});
    sidestep::ThreadPool threads({.threads = 1});
    net::io_context loop;
    sidestep::Event go_on;
    int value = 0;
    async_get(pool.submit(wait_for, go_on, 7),
              net::bind_executor(loop, [&](std::exception_ptr, int n) { value = n; }));
    async_get(threads.submit(doubled, 4), net::bind_executor(loop, [&](std::exception_ptr, int n) {
                  CHECK(value == 0);
                  CHECK(n == 8);
                  go_on.set();
              }));
    loop.run();
    CHECK(value == 7);
}

TEST_CASE("use_future waits for a future's result", "[pool][asio]") {
    sidestep::Pool pool({.processes = 1});
    CHECK(async_get(pool.submit(doubled, 21), net::use_future).get() == 42);
    CHECK_THROWS_AS(async_get(pool.submit(refuse, 1), net::use_future).get(), std::domain_error);
}

#if defined(ASIO_HAS_CO_AWAIT) || defined(BOOST_ASIO_HAS_CO_AWAIT)
TEST_CASE("a coroutine awaits a future's result", "[pool][asio]") {
    sidestep::Pool pool({.processes = 1});
    net::io_context loop;
    std::string told;
    int value = 0;
    auto run = [&]() -> net::awaitable<void> {
        value = co_await async_get(pool.submit(doubled, 3), net::use_awaitable);
        value = co_await async_get(pool.submit(doubled, value), net::use_awaitable);
        co_await async_get(pool.submit([] {}), net::use_awaitable);
        try {
            co_await async_get(pool.submit(refuse, 1), net::use_awaitable);
        } catch (const std::domain_error& e) {
            told = e.what();
        }
    };
    net::co_spawn(loop, run(), [](std::exception_ptr error) { CHECK_FALSE(error); });
    loop.run();
    CHECK(value == 12);
    CHECK(told == "not this one");
}
#endif

#ifdef ASIO_VERSION
#if ASIO_VERSION >= 102000
TEST_CASE("an operation that is cancelled cancels its task", "[pool][asio]") {
    sidestep::Pool pool({.processes = 1});
    net::io_context loop;
    net::cancellation_signal signal;
    sidestep::Event never;
    bool cancelled = false;
    auto handler = [&](std::exception_ptr error, int) {
        try {
            std::rethrow_exception(error);
        } catch (const sidestep::CancelledError&) {
            cancelled = true;
        }
    };
    async_get(pool.submit(wait_for, never, 1),
              net::bind_cancellation_slot(signal.slot(), net::bind_executor(loop, handler)));
    net::post(loop, [&] { signal.emit(net::cancellation_type::terminal); });
    loop.run();
    CHECK(cancelled);
    CHECK(pool.apply(doubled, 1) == 2);
}
#endif
#endif

}  // namespace asio_test
