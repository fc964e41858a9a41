// Memory that is used up: this program's operator new fails when it is told to, in the threads of
// the library, or in the test's own while it destroys something. (A program of its own.)
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/event.hpp>
#include <sidestep/task_pool.hpp>
#include <sidestep/thread_pool.hpp>
#include <sidestep/when.hpp>

#include "exhausted.hpp"
#include "pool_support.hpp"

namespace no_memory_test {

namespace mp = sidestep;
using namespace std::chrono_literals;
using test::armed;
using test::Exhausted;
using test::failures;
using test::most_rounds;
using test::spared;
using test::Spared;

namespace {

std::atomic<int> pread_error{0};  // of each pread

}  // namespace

}  // namespace no_memory_test

bool test::allocation_fails(std::size_t size) noexcept {
    if (!armed.load(std::memory_order_relaxed) || spared || size < least) return false;
    long left = until_failure.fetch_sub(1);
    if (left == 0 || (left < 0 && lasting)) return failures.fetch_add(1), true;
    return false;
}

extern "C" ssize_t pread64(int fd, void* data, std::size_t size, off64_t at) {
    if (int error = no_memory_test::pread_error) return errno = error, -1;
    return ::syscall(SYS_pread64, fd, data, size, at);
}

namespace no_memory_test {

namespace {

int hang() {
    for (;;) pause();
}
int fail() { throw std::domain_error("always"); }
std::string text(std::size_t size) { return std::string(size, 'x'); }
int print() {
    std::puts("a line");
    return 1;
}
int stay_at_one(const std::string& path, int i) {
    if (i != 1) return i;
    test::SharedWords::attach(path)[0] = mp::this_task::attempt();
    return test::eventually([] { return mp::this_task::stop_requested(); });
}
int crash_at(int i) { return i == 3 ? test::die(SIGKILL) : i; }

std::string nested_text(int depth) {
    if (depth == 0) return text(50'000);
    auto left = mp::this_task::pool().submit(nested_text, depth - 1);
    auto right = mp::this_task::pool().submit(nested_text, depth - 1);
    return left.get() + right.get();
}

template <class T>
bool is_done(const mp::Future<T>& future) {
    return future.wait_for(test::kPatience);
}

// Everything that the supervisor and the other threads of a pool do. False: something hangs.
bool use_pool(mp::Pool& pool, std::atomic<int>& called) {
    auto ask = [](const std::exception_ptr&) { return true; };
    std::vector<mp::Future<int>> futures;
    auto submit = [&](auto&&... what) {
        try {  // the pool may be broken meanwhile
            futures.push_back(pool.submit(std::forward<decltype(what)>(what)...));
            futures.back().add_done_callback([&](const auto&) { ++called; });
        } catch (const std::exception&) {
        }
    };
    submit(test::die, SIGKILL);
    submit(mp::TaskOptions{.timeout = 5ms}, hang);
    submit(mp::TaskOptions{.memory_limit = std::size_t(1) << 40}, print);
    submit(mp::TaskOptions{.retry = {.max_attempts = 2, .backoff = 1ms}}, fail);
    submit(mp::TaskOptions{.retry = {.max_attempts = 2, .when = ask}}, fail);
    submit(mp::TaskOptions{.retry = {.max_attempts = 2}}, test::die, SIGKILL);
    submit(print);
    bool done = true;
    try {
        auto large = pool.submit(text, std::size_t(100'000));
        auto map = pool.map_async(crash_at, std::vector<int>{1, 2, 3, 4, 5, 6});
        done = is_done(large) && is_done(map);
        (void)pool.stats();
    } catch (const std::exception&) {
    }
    for (const auto& f : futures) done = is_done(f) && done;
    return done;
}

// False: no allocation failed, since there are not so many.
bool use_without_memory(long n, bool for_good) {
    Spared test_thread;
    std::atomic<int> called{0};
    mp::Pool pool({.processes = 2, .start_patience = 50ms, .output = mp::Output::capture});
    Exhausted memory(n, for_good);
    bool done = use_pool(pool, called);
    pool.shutdown();
    if (!done) FAIL("it hangs: the " << n << "th allocation failed");
    return failures > 0;
}

}  // namespace

TEST_CASE("each allocation in a thread of a pool may fail: nothing hangs, nothing aborts",
          "[pool][no_memory]") {
    rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    // The first ones one by one, then ever fewer.
    int rounds = 0;
    long n = 0;
    for (; rounds < most_rounds() && use_without_memory(n, false); ++rounds) n += 1 + n / 25;
    CHECK(rounds > 20);
}

TEST_CASE("memory that is used up for good breaks a pool at the worst", "[pool][no_memory]") {
    int rounds = 0;
    for (long n = 0; rounds < most_rounds() / 3 && use_without_memory(n, true); ++rounds)
        n += 1 + n / 4;
    CHECK(rounds > 5);
}

TEST_CASE("the ends of pools, futures and streams take no memory", "[pool][no_memory]") {
    bool unwinds = GENERATE(false, true);
    std::optional<Spared> test_thread;
    test_thread.emplace();
    auto pool = std::make_unique<mp::Pool>(mp::PoolOptions{.processes = 2});
    auto large = std::make_unique<mp::Future<std::string>>(pool->submit(text, 100'000u));
    auto kept = pool->submit(text, 100'000u);
    large->wait();
    std::vector<int> items = test::numbers(1000);
    auto stream =
        std::make_unique<decltype(pool->imap(crash_at, items))>(pool->imap(crash_at, items));
    auto unordered = std::make_unique<decltype(pool->imap_unordered(crash_at, items))>(
        pool->imap_unordered(crash_at, items));
    (void)stream->next_outcome();
    (void)unordered->next_outcome();
    auto hangs = pool->submit(hang);
    Exhausted memory(0, true);
    test_thread.reset();  // from here on nothing is to be had in this thread, too
    large.reset();
    stream.reset();
    unordered.reset();
    if (unwinds)
        pool->terminate();
    else
        (void)hangs.cancel();
    pool.reset();
    armed = false;
    CHECK(kept.get().size() == 100'000);
    CHECK(hangs.cancelled());
}

TEST_CASE("the end of a ThreadPool takes no memory", "[pool][thread_pool][no_memory]") {
    std::optional<Spared> test_thread;
    test_thread.emplace();
    auto pool = std::make_unique<mp::ThreadPool>(mp::ThreadPoolOptions{.threads = 2});
    auto future = pool->submit([] { return 7; });
    Exhausted memory(0, true);
    test_thread.reset();
    pool.reset();
    armed = false;
    CHECK(future.get() == 7);
}

TEST_CASE("output that cannot be read back says so in its place", "[pool][no_memory][output]") {
    Spared test_thread;
    mp::Pool pool({.processes = 1, .output = mp::Output::capture});
    pread_error = EIO;
    auto lost = pool.submit(print);
    CHECK(lost.get() == 1);
    auto died = pool.submit(crash_at, 3);
    std::string why;
    try {
        died.get();
    } catch (const mp::WorkerLost& error) {
        why = error.what();
    }
    pread_error = 0;
    CHECK_THAT(lost.output().out,
               Catch::StartsWith("[sidestep: 7 bytes that the task wrote to stdout are lost: ") &&
                   Catch::Contains("pread: Input/output error; the kernel's log may say why"));
    CHECK(lost.output().out_dropped == 7);
    CHECK(lost.output().err.empty());
    CHECK_THAT(why, !Catch::Contains("last wrote"));
    auto kept = pool.submit(print);
    kept.wait();
    CHECK(kept.output().out == "a line\n");
    CHECK(kept.output().out_dropped == 0);
}

TEST_CASE("a task that waited for others is let go without memory", "[pool][no_memory][late]") {
    Spared spare;
    auto before = test::Resources::now();
    {
        mp::Pool pool({.processes = 1});
        mp::Event go;
        auto wait_for = [](mp::Event event) {
            event.wait();
            return 3;
        };
        auto first = pool.submit(wait_for, go);
        auto sum = pool.submit(test::add, first, first);
        Exhausted none(0, true);
        go.set();
        CHECK(sum.get() == 6);
    }
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("a task that waits for others is ended without memory, and leaves nothing",
          "[pool][no_memory][late]") {
    enum class End { cancelled, terminated, broken };
    const End end = GENERATE(End::cancelled, End::terminated, End::broken);
    auto before = test::Resources::now();
    {
        std::optional<Spared> test_thread;
        test_thread.emplace();
        mp::Pool other({.processes = 1});
        auto pool =
            std::make_unique<mp::Pool>(mp::PoolOptions{.processes = 1, .start_patience = 50ms});
        auto first = other.submit(hang);
        std::vector<mp::Future<int>> sums;
        for (int i = 0; i < 3; ++i) sums.push_back(pool->submit(test::add, first, first));
        const int worker = pool->worker_pids().at(0);
        Exhausted none(0, true);
        test_thread.reset();
        bool done = true;
        if (end == End::cancelled)
            for (auto& sum : sums) done = sum.cancel() && done;
        else if (end == End::terminated)
            pool->terminate();
        else  // there is no memory for another one
            kill(worker, SIGKILL);
        for (auto& sum : sums) done = sum.wait_for(test::kPatience) && done;
        (void)first.cancel();
        pool.reset();
        armed = false;
        CHECK(done);
        for (auto& sum : sums) {
            if (end == End::broken)
                CHECK_THROWS_AS(sum.get(), mp::BrokenPool);
            else
                CHECK_THROWS_AS(sum.get(), mp::CancelledError);
        }
    }
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("a chunk that is stopped without memory leaves nothing", "[pool][no_memory][chunk]") {
    enum class Stopped { as_a_whole, its_item_again, by_its_timeouts };
    const Stopped stopped =
        GENERATE(Stopped::as_a_whole, Stopped::its_item_again, Stopped::by_its_timeouts);
    auto before = test::Resources::now();
    {
        std::optional<Spared> test_thread;
        test_thread.emplace();
        test::SharedWords words(1);
        mp::Pool pool({.processes = 1});
        mp::MapOptions options{.chunksize = 4, .task = {.retry = {.max_attempts = 3}}};
        if (stopped != Stopped::as_a_whole) options.task.timeout = 200ms;
        auto stream = pool.imap(mp::bind(stay_at_one, words.path()), test::numbers(4), options);
        (void)stream.next_outcome(std::chrono::steady_clock::now());  // it is sent
        const std::uint64_t attempt = stopped == Stopped::its_item_again ? 2 : 1;
        CHECK(test::eventually([&] { return words[0] == attempt; }));
        {
            Exhausted none(0, true);
            if (stopped != Stopped::by_its_timeouts) {
                test_thread.reset();
                stream.cancel();
                test_thread.emplace();
            }
            // What its worker had is let go before it takes this one.
            CHECK(is_done(pool.submit(print)));
        }
        stream.cancel();
    }
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("output for which there is no memory says so in its place", "[pool][no_memory][output]") {
    std::optional<Spared> test_thread;
    test_thread.emplace();
    mp::Pool pool({.processes = 1, .output = mp::Output::capture});
    int lost = 0;
    bool failed = true;
    for (int n = 0; failed; ++n) {
        CAPTURE(n);
        auto future = pool.submit(print);
        {
            Exhausted memory(n, true);
            test_thread.reset();  // this thread takes over the result, or another one
            future.wait();
            test_thread.emplace();
        }
        failed = failures > 0;
        std::string out = future.output().out;
        lost += out != "a line\n";
        CHECK_THAT(out, Catch::Equals("a line\n") || Catch::StartsWith("[sidestep: "));
    }
    CHECK(lost > 0);
}

TEST_CASE("an error for whose message a full arena has no room keeps its type",
          "[pool][no_memory][arena]") {
    Spared test_thread;
    mp::Pool pool({.processes = 1, .arena_bytes = std::size_t(16) << 20});
    std::vector<mp::Future<std::string>> results;  // they wait in the arena
    for (std::size_t size : {std::size_t(1) << 20, std::size_t(200)}) do
            results.push_back(pool.submit(text, size));
        while (!results.back().exception());
    auto fail_with = [](const std::string& message) { throw std::domain_error(message); };
    try {
        pool.apply(fail_with, std::string(5000, 'm'));
        FAIL("it did not throw");
    } catch (const std::domain_error& error) {
        CHECK_THAT(error.what(), Catch::StartsWith("mmmm"));
    }
}

TEST_CASE("each allocation for nested tasks may fail in the pool's process: all come to an end",
          "[pool][nested][no_memory]") {
    const bool for_good = GENERATE(false, true);
    const unsigned processes = GENERATE(1u, 2u);
    const std::size_t least_bytes = GENERATE(0, 50'000);  // all of them, or those for results
    int rounds = 0;
    long n = 0;
    for (bool failed = true; failed && rounds < most_rounds(); ++rounds) {
        Spared test_thread;
        mp::Pool pool({.processes = processes, .start_patience = 50ms});
        Exhausted memory(n, for_good, least_bytes);
        auto future = pool.submit(nested_text, 4);
        if (!is_done(future)) FAIL("it hangs: the " << n << "th allocation failed");
        pool.terminate();
        pool.join();
        failed = failures > 0;
        n += least_bytes > 0 ? 1 : 1 + n / 10;
    }
    CHECK(rounds > 5);
}

TEST_CASE("each allocation in a thread of a ThreadPool may fail",
          "[pool][thread_pool][no_memory]") {
    bool for_good = GENERATE(false, true);
    int rounds = 0;
    for (bool failed = true; failed && rounds < most_rounds(); ++rounds) {
        Spared test_thread;
        mp::ThreadPool pool({.threads = 2, .initializer = [] { spared = false; }});
        std::vector<mp::Future<int>> futures;
        Exhausted memory(rounds, for_good);
        for (int i = 0; i < 10; ++i) {
            futures.push_back(pool.submit({.timeout = 10s}, [i] { return i; }));
            futures.push_back(pool.submit({.key = 7}, [i] { return i; }));
            futures.push_back(pool.submit({.retry = {.max_attempts = 2}}, fail));
        }
        futures.push_back(pool.submit({.timeout = 1ms}, [] {
            while (!mp::this_task::stop_requested()) std::this_thread::yield();
            return 1;
        }));
        bool done = true;
        for (const auto& f : futures) done = is_done(f) && done;
        pool.shutdown();
        CHECK(done);
        failed = failures > 0;
    }
    CHECK(rounds > 1);
}

TEST_CASE("when_all() and when_any() are told without memory", "[pool][thread_pool][no_memory]") {
    Spared test_thread;
    mp::ThreadPool threads({.threads = 1});
    mp::Pool pool({.processes = 1});
    mp::Event go;
    auto wait_for = [](mp::Event event) {
        event.wait();
        return 3;
    };
    auto here = threads.submit(wait_for, go);
    auto there = pool.submit(wait_for, go);
    auto both = mp::when_all(here, there);
    auto any = mp::when_any(std::vector{here});
    auto one = mp::when_all(std::vector{there});
    auto nested = mp::when_any(std::vector{one});
    Exhausted none(0, true);
    go.set();
    CHECK(is_done(both));
    CHECK(is_done(any));
    CHECK(is_done(one));
    CHECK(is_done(nested));
    armed = false;
    CHECK(any.get().value == 3);
}

}  // namespace no_memory_test
