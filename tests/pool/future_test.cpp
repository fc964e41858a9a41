// Future: its states, its calls, its copies.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <thread>

#include <catch2/catch.hpp>

#include "pool_support.hpp"

namespace future_test {

namespace mp = sidestep;
using test::methods;
using namespace std::chrono_literals;

namespace {

int fail(int x) { throw std::out_of_range("bad " + std::to_string(x)); }
std::string filled(std::size_t size) { return std::string(size, 'x'); }

// Cannot be read back.
struct Unreadable {
    template <class Archive>
    void save(Archive& archive) const {
        archive(1);
    }
    template <class Archive>
    void load(Archive&) {
        throw std::domain_error("will not be loaded");
    }
};

// A pool of one worker that is held at a gate, and a task that waits behind it.
struct Held {
    explicit Held(mp::StartMethod method)
        : pool({.processes = 1, .start_method = method}),
          running(pool.submit(test::wait_at, words.path(), 0u, 1u)),
          waiting(pool.submit(test::bump, words.path(), 2u)) {
        test::await(words[0]);
    }
    ~Held() { words[1] = 1; }

    test::SharedWords words{3};
    mp::Pool pool;
    mp::Future<std::uint64_t> running, waiting;
};

}  // namespace

TEST_CASE("an empty future says so in every call", "[pool][future]") {
    mp::Future<int> empty;
    CHECK_FALSE(empty.valid());
    CHECK_THROWS_AS(empty.get(), std::logic_error);
    CHECK_THROWS_AS(empty.get(1s), std::logic_error);
    CHECK_THROWS_AS(empty.wait(), std::logic_error);
    CHECK_THROWS_AS(empty.wait_for(1s), std::logic_error);
    CHECK_THROWS_AS(empty.ready(), std::logic_error);
    CHECK_THROWS_AS(empty.exception(), std::logic_error);
    CHECK_THROWS_AS(empty.cancel(), std::logic_error);
    mp::Pool pool({.processes = 1, .start_method = mp::StartMethod::fork});
    mp::Future<int> f = pool.submit(test::add, 1, 2);
    CHECK(f.valid());
    mp::Future<int> moved = std::move(f);
    CHECK_FALSE(f.valid());
    CHECK_THROWS_WITH(f.get(), Catch::Contains("empty"));
    CHECK(moved.get() == 3);
}

TEST_CASE("a finished future answers at once, as often as it is asked",
          "[pool][future][py:FutureTests.test_done][py:FutureTests.test_result_with_success]"
          "[py:FutureTests.test_exception_with_success]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    mp::Future<int> f = pool.submit(test::add, 1, 2);
    CHECK(f.get() == 3);
    CHECK(f.get() == 3);
    CHECK(f.get(0ns) == 3);
    CHECK(f.ready());
    CHECK(f.wait_for(0s));
    CHECK(f.wait_for(-1h));
    CHECK(f.exception() == nullptr);
    CHECK_FALSE(f.cancel());
    mp::Future<int> bad = pool.submit(fail, 7);
    CHECK_THROWS_AS(bad.get(), std::out_of_range);
    CHECK_THROWS_AS(bad.get(), std::out_of_range);
    REQUIRE(bad.exception() != nullptr);
    CHECK_THROWS_AS(std::rethrow_exception(bad.exception()), std::out_of_range);
    CHECK_FALSE(bad.cancel());
}

TEST_CASE("waiting is bounded by the timeout, and the task goes on",
          "[pool][future][py:_TestPool.test_async_timeout][py:FutureTests.test_result_with_timeout]"
          "[py:FutureTests.test_exception_with_timeout]") {
    auto method = GENERATE(from_range(methods()));
    Held held(method);
    for (std::chrono::nanoseconds timeout : {-1ns, 0ns, 1ns, 1'000'000ns, 20'000'000ns}) {
        auto begin = std::chrono::steady_clock::now();
        CHECK_FALSE(held.running.wait_for(timeout));
        CHECK(std::chrono::steady_clock::now() - begin >= timeout);
        CHECK_THROWS_AS(held.running.get(timeout), mp::TimeoutError);
    }
    CHECK_THROWS_WITH(held.running.get(5ms), Catch::Contains("5 ms"));
    CHECK_FALSE(held.running.ready());
    CHECK_FALSE(held.waiting.ready());
    held.words[1] = 42;
    CHECK(held.running.wait_for(std::chrono::nanoseconds::max()));  // no overflow
    CHECK(held.running.get() == 42);
    CHECK(held.waiting.get(1h) == 0);
}

TEST_CASE("a waiting task is cancelled at once, and never runs",
          "[pool][future][cancel][py:FutureTests.test_cancelled]"
          "[py:FutureTests.test_result_with_cancel]") {
    auto method = GENERATE(from_range(methods()));
    Held held(method);
    CHECK_FALSE(held.waiting.cancelled());
    CHECK(held.waiting.cancel());
    CHECK(held.waiting.cancelled());
    CHECK(held.waiting.ready());  // although the worker is busy still
    CHECK(held.waiting.cancel());
    CHECK_THROWS_AS(held.waiting.get(), mp::CancelledError);
    CHECK_THROWS_AS(std::rethrow_exception(held.waiting.exception()), mp::CancelledError);
    held.words[1] = 1;
    CHECK(held.running.get() == 1);
    CHECK_FALSE(held.running.cancel());
    CHECK(held.pool.apply(test::add, 1, 2) == 3);
    CHECK(held.words[2] == 0);  // it did not run
}

TEST_CASE("any of many waiting tasks can be cancelled; the others run", "[pool][future][cancel]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(1002);
    mp::Pool pool({.processes = 1, .start_method = method});
    auto running = pool.submit(test::wait_at, words.path(), 0u, 1u);
    test::await(words[0]);
    std::vector<mp::Future<std::uint64_t>> futures;
    for (std::size_t i = 0; i < 1000; ++i)
        futures.push_back(pool.submit(test::bump, words.path(), 2 + i));
    for (std::size_t i = 0; i < 1000; i += 3) CHECK(futures[i].cancel());
    words[1] = 1;
    for (std::size_t i = 0; i < 1000; ++i) {
        if (i % 3 == 0)
            CHECK_THROWS_AS(futures[i].get(), mp::CancelledError);
        else
            CHECK(futures[i].get() == 0);
    }
    for (std::size_t i = 0; i < 1000; ++i) CHECK(words[2 + i] == (i % 3 == 0 ? 0u : 1u));
}

TEST_CASE("copies refer to the same task", "[pool][future]") {
    auto method = GENERATE(from_range(methods()));
    Held held(method);
    mp::Future<std::uint64_t> copy = held.running;
    mp::Future<std::uint64_t> other = held.waiting;
    CHECK(other.cancel());
    CHECK_THROWS_AS(held.waiting.get(), mp::CancelledError);
    held.words[1] = 5;
    CHECK(copy.get() == 5);
    CHECK(held.running.get() == 5);
    copy = other;
    CHECK_THROWS_AS(copy.get(), mp::CancelledError);
}

TEST_CASE("a future outlives its pool, its large result too", "[pool][future]") {
    auto method = GENERATE(from_range(methods()));
    mp::Future<std::string> large, small;
    mp::Future<int> bad;
    std::vector<int> pids;
    {
        mp::Pool pool({.processes = 2, .start_method = method});
        pids = pool.worker_pids();
        large = pool.submit(filled, std::size_t(3) << 20);
        small = pool.submit(filled, 3u);
        bad = pool.submit(fail, 7);
    }
    for (int pid : pids) CHECK_FALSE(test::process_exists(pid));
    CHECK(test::children_of(getpid()).empty());  // no fork server either
    CHECK(large.get() == filled(std::size_t(3) << 20));
    CHECK(small.get() == "xxx");
    CHECK_THROWS_AS(bad.get(), std::out_of_range);
}

TEST_CASE("a large result outlives the worker that made it", "[pool][future]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    mp::Future<std::string> large = pool.submit(filled, std::size_t(3) << 20);
    large.wait();
    CHECK_THROWS_AS(pool.apply(test::die, SIGKILL), mp::WorkerLost);
    CHECK(pool.apply(test::add, 1, 2) == 3);
    CHECK(large.get() == filled(std::size_t(3) << 20));
}

TEST_CASE("many futures are kept, and taken in any order", "[pool][future]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<mp::Future<long>> futures;
    for (long i = 0; i < 20000; ++i) futures.push_back(pool.submit(test::square, i));
    bool right = true;
    for (long i = 19999; i >= 0; i -= 7)
        right = right && futures[static_cast<std::size_t>(i)].get() == i * i;
    for (long i = 0; i < 20000; ++i)
        right = right && futures[static_cast<std::size_t>(i)].get() == i * i;
    CHECK(right);
}

TEST_CASE("values of dropped futures are freed: the arena does not fill up",
          "[pool][future][py:_TestPool.test_release_task_refs]"
          "[py:ExecutorTest.test_free_reference]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method, .arena_bytes = std::size_t(16) << 20});
    std::string argument(std::size_t(1) << 20, 'y');
    for (int i = 0; i < 100; ++i) {
        mp::Future<std::size_t> in =
            pool.submit([](const std::string& s) { return s.size(); }, argument);
        CHECK(in.get() == argument.size());
        CHECK(pool.submit(filled, argument.size()).get().size() == argument.size());
    }
    // Never asked for, dropped before they are done.
    for (int i = 0; i < 100; ++i) (void)pool.apply(filled, std::size_t(100'000));
}

TEST_CASE("a forked copy of the process is refused every call, and its destructors do nothing",
          "[pool][fork]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(2);
    auto pool = std::make_unique<mp::Pool>(mp::PoolOptions{.processes = 1, .start_method = method});
    mp::Future<int> done = pool->submit(test::add, 1, 2);
    mp::Future<std::string> large = pool->submit(filled, std::size_t(1) << 20);
    done.wait();
    large.wait();
    auto running = pool->submit(test::wait_at, words.path(), 0u, 1u);
    test::await(words[0]);
    auto stream = pool->imap_unordered(test::square, std::vector<long>{1, 2, 3});
    pid_t child = fork();
    if (child == 0) {
        int failures = 0;
        auto refused = [&](auto call) {
            try {
                call();
                ++failures;
            } catch (const std::logic_error&) {
            }
        };
        refused([&] { pool->submit(test::add, 1, 2); });
        refused([&] { pool->submit(filled, std::string(1000, 'y').size()); });
        refused([&] { pool->map(test::square, std::vector<long>{1}); });
        refused([&] { (void)stream.next_outcome()->value(); });
        refused([&] { pool->close(); });
        refused([&] { pool->terminate(); });
        refused([&] { pool->join(); });
        refused([&] { pool->worker_pids(); });
        refused([&] { running.get(); });
        refused([&] { running.exception(); });
        failures += running.ready() || running.wait_for(1h) || running.cancel();
        failures += done.get() != 3;  // what is known is known here too
        failures += large.get().size() != std::size_t(1) << 20;
        {
            auto dropped = std::move(large);
            auto gone = std::move(stream);
        }
        pool.reset();
        _exit(failures);
    }
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    words[1] = 1;
    CHECK(running.get() == 1);
    CHECK(pool->apply(test::add, 1, 2) == 3);
}

TEST_CASE("a task sees the pool of its parent as a forked copy does", "[pool][fork]") {
    static mp::Pool* outer = nullptr;
    mp::Pool pool({.processes = 1, .start_method = mp::StartMethod::fork});
    outer = &pool;
    mp::Pool second({.processes = 1, .start_method = mp::StartMethod::fork});
    CHECK_THROWS_WITH(second.apply([] { return outer->apply(test::add, 1, 2); }),
                      Catch::Contains("forked copy"));
}

TEST_CASE("a result that cannot be read back is an error for on_error, and no value for on_value",
          "[pool][future][callback]") {
    unsigned processes = GENERATE(0u, 1u);
    mp::Pool pool({.processes = processes});
    std::string text;
    int values = 0;
    auto future = pool.submit([] { return Unreadable(); })
                      .on_value([&](const Unreadable&) { ++values; })
                      .on_error([&](const std::exception_ptr& error) {
                          try {
                              std::rethrow_exception(error);
                          } catch (const std::domain_error& e) {
                              text = e.what();
                          }
                      });
    pool.submit([] { return std::string("readable"); })
        .on_value([&](const std::string&) { ++values; })
        .on_error([&](const std::exception_ptr&) { text = "an error"; });
    pool.close();
    pool.join();
    CHECK_THROWS_AS(future.get(), std::domain_error);
    CHECK(text == "will not be loaded");
    CHECK(values == 1);
}

}  // namespace future_test
