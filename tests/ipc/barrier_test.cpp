#include <sidestep/barrier.hpp>

#include <array>
#include <string>
#include <thread>

#include <catch2/catch.hpp>

#include "processes.hpp"

namespace barrier_test {

using sidestep::Barrier;
using sidestep::BrokenBarrierError;
using namespace std::chrono_literals;

namespace {

constexpr unsigned kParties = 5;
constexpr auto kDefaultTimeout = 30s;

struct Results {
    std::array<std::atomic<int>, 4> count;
};

// f(results) in four children and here: true if all got through.
template <class F>
bool run_parties(F f) {
    std::vector<test::Child> children;
    for (unsigned i = 1; i < kParties; ++i) children.emplace_back(f);
    bool good = true;
    try {
        f();
    } catch (...) {
        good = false;
    }
    for (test::Child& child : children) good = child.wait() == 0 && good;
    return good;
}

void must(bool condition) {
    if (!condition) throw std::runtime_error("not as it must be");
}

void pass(Barrier barrier, Results& results, int rounds) {
    must(barrier.parties() == kParties);
    for (int i = 0; i < rounds; ++i) {
        ++results.count[0];
        must(results.count[1] == i * int(kParties));
        barrier.wait();
        ++results.count[1];
        must(results.count[0] == (i + 1) * int(kParties));
        barrier.wait();
    }
    must(barrier.n_waiting() == 0);
    must(!barrier.broken());
}

}  // namespace

TEST_CASE("parties pass a barrier in lockstep",
          "[ipc][barrier][py:_TestBarrier.test_barrier][py:_TestBarrier.test_barrier_10]") {
    for (int rounds : {1, 10}) {
        Barrier barrier(kParties, {.timeout = kDefaultTimeout});
        test::SharedPage<Results> results;
        CHECK(run_parties([&] { pass(barrier, *results, rounds); }));
    }
}

TEST_CASE("wait() returns a number of its own to each party",
          "[ipc][barrier][py:_TestBarrier.test_wait_return]") {
    Barrier barrier(kParties, {.timeout = kDefaultTimeout});
    test::SharedPage<std::array<std::atomic<int>, kParties>> seen;
    CHECK(run_parties([&] { ++(*seen)[barrier.wait()]; }));
    for (auto& count : *seen) CHECK(count == 1);
}

TEST_CASE("one party runs the action, before any goes on",
          "[ipc][barrier][py:_TestBarrier.test_action]") {
    static std::atomic<int>* runs;
    test::SharedPage<std::atomic<int>> counter;
    runs = &*counter;
    Barrier barrier(kParties, [] { ++*runs; }, {.timeout = kDefaultTimeout});
    CHECK(run_parties([&] {
        barrier.wait();
        must(*runs == 1);
    }));
    CHECK(*counter == 1);
}

TEST_CASE("an action that throws breaks the barrier", "[ipc][barrier]") {
    struct Thrower {
        void operator()() const { throw std::runtime_error("no"); }
    };
    Barrier barrier(2, Thrower{});
    test::Child other([&] {
        try {
            barrier.wait();
        } catch (const BrokenBarrierError&) {
            return 1;
        } catch (const std::runtime_error&) {
            return 2;
        }
        return 0;
    });
    int mine = 0;
    try {
        barrier.wait();
    } catch (const BrokenBarrierError&) {
        mine = 1;
    } catch (const std::runtime_error&) {
        mine = 2;
    }
    CHECK(mine + other.wait() == 3);
    CHECK(barrier.broken());
}

TEST_CASE("abort breaks a barrier for all", "[ipc][barrier][py:_TestBarrier.test_abort]") {
    Barrier barrier(kParties, {.timeout = kDefaultTimeout});
    test::SharedPage<Results> results;
    CHECK(run_parties([&] {
        try {
            if (barrier.wait() == kParties / 2) return barrier.abort();
            barrier.wait();
            ++results->count[0];
        } catch (const BrokenBarrierError&) {
            ++results->count[1];
        }
    }));
    CHECK(results->count[0] == 0);
    CHECK(results->count[1] == kParties - 1);
    CHECK(barrier.broken());
    CHECK_THROWS_AS(barrier.wait(), BrokenBarrierError);
}

TEST_CASE("reset sends away who waits", "[ipc][barrier][py:_TestBarrier.test_reset]") {
    Barrier barrier(kParties, {.timeout = kDefaultTimeout});
    test::SharedPage<Results> results;
    CHECK(run_parties([&] {
        if (barrier.wait() == kParties / 2) {
            must(test::eventually([&] { return barrier.n_waiting() == kParties - 1; }));
            barrier.reset();
        } else {
            try {
                barrier.wait();
                ++results->count[0];
            } catch (const BrokenBarrierError&) {
                ++results->count[1];
            }
        }
        barrier.wait();
        ++results->count[2];
    }));
    CHECK(results->count[0] == 0);
    CHECK(results->count[1] == kParties - 1);
    CHECK(results->count[2] == kParties);
}

TEST_CASE("a broken barrier works again after reset",
          "[ipc][barrier][py:_TestBarrier.test_abort_and_reset]") {
    Barrier barrier(kParties, {.timeout = kDefaultTimeout}), between(kParties);
    test::SharedPage<Results> results;
    CHECK(run_parties([&] {
        try {
            if (barrier.wait() == kParties / 2) {
                barrier.abort();
            } else {
                barrier.wait();
                ++results->count[0];
            }
        } catch (const BrokenBarrierError&) {
            ++results->count[1];
        }
        if (between.wait() == kParties / 2) barrier.reset();
        between.wait();
        barrier.wait();
        ++results->count[2];
    }));
    CHECK(results->count[0] == 0);
    CHECK(results->count[1] == kParties - 1);
    CHECK(results->count[2] == kParties);
}

TEST_CASE("a party that is late breaks the barrier",
          "[ipc][barrier][py:_TestBarrier.test_timeout][py:_TestBarrier.test_default_timeout]") {
    bool by_default = GENERATE(false, true);
    Barrier barrier(kParties, {.timeout = by_default ? 300ms : std::chrono::milliseconds(30'000)});
    test::SharedPage<Results> results;
    CHECK(run_parties([&] {
        if (barrier.wait_for(30s) == kParties / 2)
            must(test::eventually([&] { return barrier.broken(); }));
        try {
            by_default ? barrier.wait() : barrier.wait_for(300ms);
        } catch (const BrokenBarrierError&) {
            ++results->count[0];
        }
    }));
    CHECK(results->count[0] == kParties);
}

TEST_CASE("a barrier for one lets it pass", "[ipc][barrier][py:_TestBarrier.test_single_thread]") {
    Barrier barrier(1);
    CHECK(barrier.wait() == 0);
    CHECK(barrier.wait() == 0);
}

TEST_CASE("a thousand rounds stay in step", "[ipc][barrier][py:_TestBarrier.test_thousand]") {
    constexpr int kRounds = 1000;
    Barrier barrier(kParties, {.timeout = kDefaultTimeout});
    test::SharedPage<std::array<std::atomic<int>, kRounds>> seen;
    CHECK(run_parties([&] {
        for (int i = 0; i < kRounds; ++i) {
            barrier.wait();
            ++(*seen)[std::size_t(i)];
            // Who is in round i has seen all of round i - 1, and nobody is past i + 1.
            must(i == 0 || (*seen)[std::size_t(i) - 1] == int(kParties));
            must(i + 2 >= kRounds || (*seen)[std::size_t(i) + 2] == 0);
        }
    }));
    for (auto& count : *seen) REQUIRE(count == int(kParties));
}

TEST_CASE("threads of one process are parties too", "[ipc][barrier]") {
    Barrier barrier(3);
    std::vector<std::thread> threads;
    std::atomic<unsigned> sum{0};
    for (int i = 0; i < 2; ++i)
        threads.emplace_back([&] {
            for (int j = 0; j < 100; ++j) sum += barrier.wait();
        });
    for (int j = 0; j < 100; ++j) sum += barrier.wait();
    for (std::thread& thread : threads) thread.join();
    CHECK(sum == 100 * (0 + 1 + 2));
}

TEST_CASE("a party that dies breaks the barrier", "[ipc][barrier]") {
    Barrier barrier(3);
    test::SharedPage<std::atomic<int>> rounds;
    bool while_waiting = GENERATE(true, false);
    test::Child victim([&] {
        barrier.wait();
        ++*rounds;
        if (while_waiting) barrier.wait();
        for (;;) pause();
    });
    test::Child survivor([&] {
        barrier.wait();
        ++*rounds;
        try {
            barrier.wait();
        } catch (const BrokenBarrierError&) {
            return 0;
        }
        return 1;
    });
    barrier.wait();
    unsigned waiting = while_waiting ? 2 : 1;
    REQUIRE(test::eventually([&] { return *rounds == 2 && barrier.n_waiting() == waiting; }));
    victim.kill();
    CHECK(survivor.wait() == 0);
    CHECK(barrier.broken());
    barrier.reset();
    barrier.leave();
    CHECK_FALSE(barrier.broken());
}

TEST_CASE("a party that leaves may end", "[ipc][barrier]") {
    Barrier barrier(2);
    auto once = [&] {
        barrier.wait();
        barrier.leave();
    };
    for (int i = 0; i < 3; ++i) {
        test::Child a(once), b(once);
        CHECK(a.wait() == 0);
        CHECK(b.wait() == 0);
    }
    CHECK_FALSE(barrier.broken());
}

TEST_CASE("bad numbers of parties are refused", "[ipc][barrier]") {
    CHECK_THROWS_AS(Barrier(0), std::invalid_argument);
    CHECK_THROWS_AS(Barrier(4097), std::invalid_argument);
    CHECK(Barrier(4096).parties() == 4096);
}

namespace {

// What the barrier tells who waits; empty if it lets it pass.
std::string refusal(Barrier& barrier, std::chrono::milliseconds timeout = test::kPatience) {
    try {
        (void)barrier.wait_for(timeout);
    } catch (const BrokenBarrierError& error) {
        return error.what();
    }
    return {};
}
std::string process(int pid) { return "process " + std::to_string(pid); }

// An action that goes on for longer than the time limit of a party.
struct SlowAction {
    static constexpr auto kLimit = 2s;  // both parties come within this
    std::atomic<int> runs;
    std::atomic<std::chrono::steady_clock::duration> limit_passed;
    static inline SlowAction* shared;
    static void run() {
        ++shared->runs;
        (void)test::eventually([] {
            auto now = std::chrono::steady_clock::now().time_since_epoch();
            return now > shared->limit_passed.load() + 300ms;
        });
    }
};

}  // namespace

TEST_CASE("when all have come, no time limit breaks the barrier while the action runs",
          "[ipc][barrier]") {
    test::SharedPage<SlowAction> action;
    SlowAction::shared = &*action;
    Barrier barrier(2, &SlowAction::run);
    test::Child first([&] {
        auto begin = std::chrono::steady_clock::now().time_since_epoch();
        action->limit_passed = begin + SlowAction::kLimit;
        unsigned index = barrier.wait_for(SlowAction::kLimit);
        // Its end would break the next round, which the late one is to break.
        (void)test::eventually([&] { return barrier.broken(); });
        return static_cast<int>(index);
    });
    test::Child late([&] {  // for the next round, which it breaks
        if (!test::eventually([&] { return action->runs == 1; })) return 1;
        std::string told = refusal(barrier, 1ms);
        return told.find("timed out") != std::string::npos ? 0 : 2;
    });
    REQUIRE(test::eventually([&] { return barrier.n_waiting() == 1; }));
    CHECK(barrier.wait() == 1);
    CHECK(first.wait() == 0);
    CHECK(late.wait() == 0);
    CHECK(barrier.broken());
    CHECK(action->runs == 1);
}

TEST_CASE("a broken barrier tells what broke it", "[ipc][barrier]") {
    Barrier barrier(2);
    SECTION("a time limit") {
        CHECK_THAT(refusal(barrier, 1ms), Catch::Contains(process(getpid()) + " timed out"));
        CHECK_THAT(refusal(barrier), Catch::Contains("timed out"));
    }
    SECTION("a death") {
        Barrier three(3);
        test::Child victim([&] { three.wait(); });
        int pid = victim.pid();
        REQUIRE(test::eventually([&] { return three.n_waiting() == 1; }));
        victim.kill();
        for (int i = 0; i < 2; ++i)
            CHECK_THAT(refusal(three), Catch::Contains(process(pid) + " died"));
    }
    SECTION("abort(), and a second abort() does not hide the first") {
        test::Child child([&] { barrier.abort(); });
        int pid = child.pid();
        CHECK(child.wait() == 0);
        barrier.abort();
        CHECK_THAT(refusal(barrier), Catch::Contains(process(pid) + " called abort()"));
    }
    SECTION("reset()") {
        std::string told;
        std::thread party([&] { told = refusal(barrier); });
        REQUIRE(test::eventually([&] { return barrier.n_waiting() == 1; }));
        barrier.reset();
        party.join();
        CHECK_THAT(told, Catch::Contains("called reset()"));
        CHECK_FALSE(barrier.broken());
    }
}

}  // namespace barrier_test
