// What every pool does, whatever its workers are: submitting, mapping, and the ways to end.
#include <numeric>
#include <set>
#include <stdexcept>

#include <catch2/catch.hpp>

#include "pool_support.hpp"

namespace pool_contract_test {

namespace mp = sidestep;
using test::methods;

namespace {

struct Scale {
    double factor = 1;
    double operator()(double x) const { return factor * x; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(factor);
    }
};

std::string label(int id, const std::string& text) { return text + "#" + std::to_string(id); }
void nothing(int) {}
int fail_on_negative(int x) {
    if (x < 0) throw std::invalid_argument("negative: " + std::to_string(x));
    return x;
}
std::size_t length(const std::string& text) { return text.size(); }
std::string filled(std::size_t size) { return std::string(size, 'x'); }

}  // namespace

TEST_CASE("submit and apply run every kind of callable in another process", "[pool][submit]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    CHECK(pool.submit(test::add, 2, 3).get() == 5);
    CHECK(pool.submit(&test::add, 2, 3).get() == 5);
    CHECK(pool.apply([](int x) { return x + 1; }, 41) == 42);
    CHECK(pool.apply(Scale{2.5}, 4.0) == 10.0);
    CHECK(pool.apply(mp::bind(label, 7), "x") == "x#7");
    CHECK(pool.apply(test::own_pid) != getpid());
    pool.apply(nothing, 1);
    mp::Future<void> done = pool.submit(nothing, 1);
    done.get();
}

TEST_CASE("apply returns the result of the call, submit a future of it",
          "[pool][py:_TestPool.test_apply][py:_TestPool.test_async][py:ExecutorTest.test_submit]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 4, .start_method = method});
    CHECK(pool.apply(test::square, 5) == 25);
    CHECK(pool.apply([] { return 1; }) == 1);
    CHECK(pool.submit(test::square, 7).get() == 49);
}

TEST_CASE("map keeps the order of the items, with and without chunks",
          "[pool][map][py:_TestPool.test_map][py:_TestPool.test_map_chunksize]"
          "[py:ExecutorTest.test_map][py:ProcessPoolExecutorTest.test_map_chunksize]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 4, .start_method = method});
    std::vector<long> expected(100);
    for (long i = 0; i < 100; ++i) expected[static_cast<std::size_t>(i)] = i * i;
    CHECK(pool.map(test::square, test::numbers(0L, 100L)) == expected);
    for (std::size_t chunksize : {1u, 6u, 20u, 99u, 100u, 101u, 100000u})
        CHECK(pool.map(test::square, test::numbers(0L, 100L), {.chunksize = chunksize}) ==
              expected);
    CHECK(pool.map(test::square, std::vector<long>{}, {.chunksize = 1}).empty());
}

TEST_CASE("map over void calls runs all of them", "[pool][map]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(1);
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<std::string> paths(50, words.path());
    static_assert(std::is_void_v<decltype(pool.map(nothing, std::vector<int>{}))>);
    pool.map([](const std::string& path) { test::bump(path, 0); }, paths);
    CHECK(words[0] == 50);
}

TEST_CASE("starmap spreads tuples and pairs over the parameters",
          "[pool][map][py:_TestPool.test_starmap][py:_TestPool.test_starmap_async]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 4, .start_method = method});
    std::vector<std::pair<int, int>> pairs;
    std::vector<int> expected;
    for (int i = 0; i < 100; ++i) {
        pairs.emplace_back(i, 2 * i);
        expected.push_back(3 * i);
    }
    CHECK(pool.starmap(test::add, pairs) == expected);
    CHECK(pool.starmap(test::add, pairs, {.chunksize = 20}) == expected);
    std::vector<std::tuple<int, std::string>> tuples{{1, "x"}, {2, "y"}};
    CHECK(pool.starmap(label, tuples) == std::vector<std::string>{"x#1", "y#2"});
    CHECK(pool.starmap(label, std::vector<std::tuple<int, std::string>>{}).empty());
}

TEST_CASE("an empty input gives an empty result at once",
          "[pool][map][py:_TestPool.test_empty_iterable]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    std::vector<long> none;
    CHECK(pool.map(test::square, none).empty());
    CHECK(pool.imap(test::square, none).begin() == std::default_sentinel);
    CHECK(pool.imap_unordered(test::square, none).begin() == std::default_sentinel);
    CHECK(pool.starmap(test::add, std::vector<std::pair<int, int>>{}).empty());
}

TEST_CASE("map runs all items, then throws the error of the first that failed",
          "[pool][map][py:_TestPool.test_map_no_failfast][py:ExecutorTest.test_map_exception]") {
    auto method = GENERATE(from_range(methods()));
    std::size_t chunksize = GENERATE(0u, 1u, 7u, 1000u);
    test::SharedWords words(1);
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<std::tuple<int, std::string>> items;
    for (int i = 0; i < 60; ++i) items.emplace_back(i == 20 || i == 40 ? -i : i, words.path());
    auto run = [](int x, const std::string& path) {
        test::bump(path, 0);
        return fail_on_negative(x);
    };
    try {
        pool.starmap(run, items, {.chunksize = chunksize});
        FAIL("no error");
    } catch (const std::invalid_argument& error) {
        CHECK(error.what() == std::string("negative: -20"));
    }
    CHECK(words[0] == 60);
}

TEST_CASE("arguments and results may be of any size", "[pool][large]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    // Around the slot's inline size (a string's length takes 8 bytes), a page, a large block.
    for (std::size_t size :
         {0u, 1u, 143u, 144u, 145u, 175u, 176u, 177u, 183u, 184u, 185u, 4095u, 4096u, 4097u,
          (1u << 20) - 9, (1u << 20) - 8, (1u << 20) - 7, (1u << 20) + 1, 5'000'001u}) {
        CAPTURE(size);
        CHECK(pool.apply(length, std::string(size, 'y')) == size);
        CHECK(pool.apply(filled, size) == std::string(size, 'x'));
    }
}

TEST_CASE("100 MiB of argument and of result travel", "[pool][large]") {
    auto method = GENERATE(from_range(methods()));
    constexpr std::size_t kSize = std::size_t(100) << 20;
    mp::Pool pool({.processes = 2, .start_method = method});
    std::vector<std::uint8_t> input(kSize);
    std::iota(input.begin(), input.end(), std::uint8_t(0));
    auto echo = [](std::vector<std::uint8_t> bytes) {
        for (std::uint8_t& b : bytes) b = static_cast<std::uint8_t>(b + 1);
        return bytes;
    };
    std::vector<std::uint8_t> output = pool.apply(echo, input);
    bool equal = output.size() == kSize;
    for (std::size_t i = 0; equal && i < kSize; ++i)
        equal = output[i] == static_cast<std::uint8_t>(input[i] + 1);
    CHECK(equal);
}

TEST_CASE("shared memory that is used up fails that call alone, and says what to do",
          "[pool][large]") {
    auto method = GENERATE(from_range(methods()));
    constexpr std::size_t kArena = std::size_t(16) << 20;
    mp::Pool pool({.processes = 1, .start_method = method, .arena_bytes = kArena});
    auto message = [](auto call) -> std::string {
        try {
            call();
            return "no error";
        } catch (const std::bad_alloc& error) {
            return error.what();
        }
    };
    CHECK_THAT(message([&] { pool.submit(length, std::string(kArena, 'y')); }),
               Catch::Contains("used up"));
    CHECK_THAT(message([&] { pool.apply(filled, kArena); }), Catch::Contains("used up"));
    CHECK(pool.apply(length, std::string(kArena / 4, 'y')) == kArena / 4);
    CHECK(pool.apply(filled, kArena / 4).size() == kArena / 4);
    for (int i = 0; i < 50; ++i)  // what was taken is given back
        CHECK(pool.apply(filled, kArena / 4).size() == kArena / 4);
}

TEST_CASE(
    "options that make no sense are refused with the remedy",
    "[pool][options][py:_TestPool.test_make_pool][py:ExecutorTest.test_max_workers_negative]") {
    auto method = GENERATE(from_range(methods()));
    CHECK_THROWS_AS(mp::Pool({.processes = 1025, .start_method = method}), std::invalid_argument);
    CHECK_THROWS_AS(mp::Pool({.processes = static_cast<unsigned>(-1), .start_method = method}),
                    std::invalid_argument);
    constexpr std::size_t kLeast = std::size_t(16) << 20;
    CHECK_THROWS_AS(mp::Pool({.processes = 1, .start_method = method, .arena_bytes = kLeast - 1}),
                    std::invalid_argument);
    CHECK_THROWS_AS(mp::Pool({.processes = 1, .start_method = method, .arena_bytes = 0}),
                    std::invalid_argument);
    CHECK_THROWS_WITH(mp::Pool({.processes = 1025, .start_method = method}),
                      Catch::Contains("1025") && Catch::Contains("1024"));
    mp::Pool least({.processes = 1, .start_method = method, .arena_bytes = kLeast});
    CHECK(least.apply(test::add, 1, 2) == 3);
    mp::Pool more({.processes = 3, .start_method = method});
    CHECK(more.processes() == 3);
    CHECK(more.worker_pids().size() == 3);
}

TEST_CASE("a pool has a worker for each CPU by default", "[pool][options]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.start_method = method});
    CHECK(pool.processes() >= 1);
    std::set<int> pids;
    for (int pid : pool.worker_pids()) pids.insert(pid);
    CHECK(pids.size() == pool.processes());
    CHECK(pids.contains(pool.apply(test::own_pid)));
}

TEST_CASE("each worker leads a process group of its own", "[pool]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    CHECK(pool.apply([] { return getpgrp() == getpid(); }));
    CHECK(pool.apply([] { return static_cast<int>(getppid()); }) == getpid());
}

TEST_CASE("a closed pool takes no tasks, and finishes those it has",
          "[pool][end][py:_TestPool.test_context][py:_TestPool.test_enter]"
          "[py:ExecutorShutdownTest.test_run_after_shutdown]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(2);
    mp::Pool pool({.processes = 2, .start_method = method});
    mp::Future<std::uint64_t> held = pool.submit(test::wait_at, words.path(), 0u, 1u);
    pool.close();
    pool.close();
    CHECK_THROWS_WITH(pool.submit(test::add, 1, 2), Catch::Contains("closed"));
    CHECK_THROWS_AS(pool.submit(test::add, 1, 2), std::logic_error);
    CHECK_THROWS_AS(pool.map(test::square, std::vector<long>{1}), std::logic_error);
    words[1] = 9;
    pool.join();
    CHECK(held.ready());
    CHECK(held.get() == 9);
    CHECK(pool.worker_pids().empty());
    pool.join();  // again: nothing more to wait for
    CHECK_THROWS_AS(pool.submit(test::add, 1, 2), std::logic_error);
}

TEST_CASE("join before close is refused, not a wait for ever", "[pool][end]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    CHECK_THROWS_AS(pool.join(), std::logic_error);
    CHECK(pool.apply(test::add, 1, 2) == 3);
}

TEST_CASE("terminate ends the workers now; what was not done is cancelled",
          "[pool][end][py:_TestPool.test_terminate]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(4);
    mp::Pool pool({.processes = 2, .start_method = method});
    CHECK(pool.apply(test::add, 1, 2) == 3);
    std::vector<mp::Future<std::uint64_t>> futures;
    for (int i = 0; i < 1000; ++i)
        futures.push_back(pool.submit(test::wait_at, words.path(), 0u, 1u));
    test::await(words[0]);
    std::vector<int> pids = pool.worker_pids();
    pool.terminate();
    pool.terminate();
    pool.close();
    CHECK_THROWS_WITH(pool.submit(test::add, 1, 2), Catch::Contains("terminated"));
    pool.join();
    for (auto& f : futures) {
        CHECK(f.ready());
        CHECK_THROWS_AS(f.get(), mp::CancelledError);
    }
    CHECK(pool.worker_pids().empty());
    for (int pid : pids) CHECK_FALSE(test::process_exists(pid));
}

TEST_CASE("the destructor finishes all tasks",
          "[pool][end][py:ExecutorShutdownTest.test_hang_issue12364]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(1);
    std::vector<mp::Future<std::uint64_t>> futures;
    {
        mp::Pool pool({.processes = 2, .start_method = method});
        for (int i = 0; i < 500; ++i) futures.push_back(pool.submit(test::bump, words.path(), 0u));
    }
    CHECK(words[0] == 500);
    std::set<std::uint64_t> seen;
    for (auto& f : futures) seen.insert(f.get());
    CHECK(seen.size() == 500);
}

TEST_CASE("the destructor terminates while an exception unwinds", "[pool][end]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(2);
    mp::Future<std::uint64_t> running, waiting;
    try {
        mp::Pool pool({.processes = 1, .start_method = method});
        running = pool.submit(test::wait_at, words.path(), 0u, 1u);  // would wait for ever
        waiting = pool.submit(test::bump, words.path(), 1u);
        test::await(words[0]);
        throw std::runtime_error("leave");
    } catch (const std::runtime_error&) {
    }
    CHECK_THROWS_AS(running.get(), mp::CancelledError);
    CHECK_THROWS_AS(waiting.get(), mp::CancelledError);
    CHECK(words[1] == 0);
}

TEST_CASE("a pool that is made and dropped leaves nothing, used or not", "[pool][end]") {
    auto method = GENERATE(from_range(methods()));
    for (int round = 0; round < 20; ++round) {
        mp::Pool pool({.processes = 2, .start_method = method});
        if (round % 2) CHECK(pool.apply(test::add, round, 1) == round + 1);
        if (round % 3 == 0) pool.terminate();
    }
}

TEST_CASE("several pools live side by side", "[pool]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool first({.processes = 2, .start_method = method});
    mp::Pool second({.processes = 2, .start_method = method});
    mp::Future<int> a = first.submit(test::add, 1, 2);
    mp::Future<int> b = second.submit(test::add, 3, 4);
    CHECK(b.get() == 7);
    CHECK(a.get() == 3);
    std::vector<int> pids = first.worker_pids();
    for (int pid : second.worker_pids())
        CHECK(std::find(pids.begin(), pids.end(), pid) == pids.end());
}

TEST_CASE("a task may make a pool of its own", "[pool][nested]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    auto nested = [](int method_number) {
        mp::Pool inner(
            {.processes = 2, .start_method = static_cast<mp::StartMethod>(method_number)});
        std::vector<long> squares = inner.map(test::square, test::numbers(0L, 10L));
        return std::accumulate(squares.begin(), squares.end(), 0L);
    };
    CHECK(pool.apply(nested, static_cast<int>(method)) == 285);
    mp::Future<long> one = pool.submit(nested, static_cast<int>(method));
    mp::Future<long> two = pool.submit(nested, static_cast<int>(method));
    CHECK(one.get() + two.get() == 570);
}

}  // namespace pool_contract_test
