// Streams where memory is used up. (In the program of no_memory_test.cpp.)
#include <atomic>
#include <cstddef>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/detail/completion_queue.hpp>
#include <sidestep/detail/input_thread.hpp>
#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

#include "exhausted.hpp"
#include "paced.hpp"
#include "pool_support.hpp"

namespace no_memory_stream_test {

namespace mp = sidestep;
using test::Exhausted;
using test::failures;
using test::most_rounds;
using test::spared;
using test::Spared;

namespace {

int same(int i) { return i; }

// Whatever becomes of each, none is missing between two others.
template <class Pool>
void check_stream(Pool& pool) {
    constexpr std::size_t kItems = 40;
    int rounds = 0, refused = 0;
    for (bool failed = true; failed && rounds < most_rounds(); ++rounds) {
        std::optional<Spared> test_thread;
        test_thread.emplace();
        auto stream = pool.imap(same, std::vector<int>(kItems, 1), {.chunksize = 1});
        Exhausted memory(rounds, false);
        std::size_t next = 0, thrown = 0;
        bool in_order = true, last_failed = false;
        for (bool goes_on = true; goes_on;) {
            test_thread.reset();
            try {
                auto outcome = stream.next_outcome();
                goes_on = outcome.has_value();
                if (outcome) {
                    in_order = in_order && outcome->index() == next++;
                    last_failed = !*outcome;
                }
            } catch (const std::bad_alloc&) {
                ++thrown;
            }
            test_thread.emplace();
        }
        failed = failures > 0;
        INFO("allocation " << rounds << " failed; items " << next << ", thrown " << thrown);
        CHECK(in_order);
        if (next != kItems) CHECK((thrown == 1 || last_failed));
        refused += next != kItems;
    }
    CHECK(rounds > 1);
    CHECK(refused > 0);
}

}  // namespace

TEST_CASE("each allocation in the thread that pulls a stream's input may fail",
          "[pool][thread_pool][no_memory]") {
    constexpr long kItems = 3000;
    int rounds = 0, refused = 0;
    for (bool failed = true; failed && rounds < most_rounds(); ++rounds) {
        Spared test_thread;
        mp::ThreadPool pool({.threads = 1, .initializer = [] { spared = true; }});
        Exhausted memory(rounds, false);
        long sum = 0;
        try {
            for (int i :
                 pool.imap([](int n) { return n; }, test::Paced(kItems, [](int) { return true; })))
                sum += i;
            CHECK(sum == kItems * (kItems - 1) / 2);
        } catch (const std::bad_alloc&) {
            ++refused;
        }
        failed = failures > 0;
    }
    CHECK(rounds > 1);
    CHECK(refused > 0);
}

TEST_CASE("a stream without memory ends: it does not go on without items that it had",
          "[pool][thread_pool][no_memory]") {
    SECTION("in processes") {
        mp::Pool pool({.processes = 1});
        check_stream(pool);
    }
    SECTION("in threads") {
        mp::ThreadPool pool({.threads = 1, .initializer = [] { spared = true; }});
        check_stream(pool);
    }
}

TEST_CASE("a stream that waits for its input and for results takes no more memory each time",
          "[pool][no_memory][white-box]") {
    std::atomic<bool> goes_on{false};
    mp::detail::InputThread input(
        [&] {
            goes_on.wait(false);
            return false;
        },
        [] {});
    auto wake = std::make_shared<mp::detail::CompletionQueue>();
    {
        Exhausted none(0, true, 4096);
        for (int i = 0; i < 10'000; ++i) {
            input.go_on(1, wake);
            wake->add(0);  // a result came first
            (void)wake->pop();
            input.rest();
        }
    }
    goes_on = true;
    goes_on.notify_all();
    CHECK(wake->empty());
}

}  // namespace no_memory_stream_test
