// InterruptGuard: what SIGINT, SIGTERM and others do while a pool works.
#include <signal.h>
#include <sys/wait.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <sidestep/interrupt_guard.hpp>
#include <sidestep/thread_pool.hpp>

#include "policy_support.hpp"

namespace interrupt_test {

using test::methods;

namespace {

struct Interrupted : test::Program {
    Interrupted(const std::string& what, sidestep::StartMethod method)
        : test::Program({"interrupt-" + what, test::name_of(method)}) {
        REQUIRE(read_line() == "running");
    }
    void interrupt(int signal = SIGINT) { kill(pid(), signal); }
};

enum Word : std::size_t { kBegun, kTell, kGate, kDone, kWords };

// An item: its place, counted when it is done. But for the first two, it runs until the gate opens.
int place(const std::pair<std::string, int>& its) {
    if (its.second >= 2) {
        test::bump(its.first, kBegun);
        test::wait_at(its.first, kTell, kGate);
    }
    test::bump(its.first, kDone);
    return its.second;
}

}  // namespace

TEST_CASE("the first Ctrl-C finishes what runs and cancels what waits; workers do not get it",
          "[pool][interrupt]") {
    auto method = GENERATE(from_range(methods()));
    Interrupted program("once", method);
    kill(-program.pid(), SIGINT);  // to the whole group, as a terminal does
    auto result = program.finish();
    CHECK(result.output ==
          "waiting: CancelledError\n"
          "submit: CancelledError\n"
          "map: CancelledError\n"
          "running: done\n"
          "running: done\n");
    CHECK(result.exited_with(130));
}

TEST_CASE("the second Ctrl-C ends what runs, the third does what it did before there was a guard",
          "[pool][interrupt]") {
    auto method = GENERATE(from_range(methods()));
    Interrupted program("again", method);
    program.interrupt();
    CHECK(program.read_line() == "waiting: CancelledError");
    program.interrupt();
    CHECK(program.read_line() == "running: CancelledError");
    CHECK(program.read_line() == "running: CancelledError");
    CHECK(program.read_line() == "joined");
    program.interrupt();
    auto result = program.finish();
    CHECK(WIFSIGNALED(result.status));
    CHECK(WTERMSIG(result.status) == SIGINT);
}

TEST_CASE("each signal of a guard is a step: SIGTERM, then Ctrl-C, then the end",
          "[pool][interrupt][signals]") {
    auto method = GENERATE(from_range(methods()));
    Interrupted program("by-any", method);
    program.interrupt(SIGTERM);
    CHECK(program.read_line() == "waiting: CancelledError");
    program.interrupt(SIGINT);
    CHECK(program.read_line() == "running: CancelledError");
    CHECK(program.read_line() == "running: CancelledError");
    CHECK(program.read_line() == "joined");
    program.interrupt(SIGTERM);
    auto result = program.finish();
    CHECK(WIFSIGNALED(result.status));
    CHECK(WTERMSIG(result.status) == SIGTERM);
}

namespace {
std::atomic<int> handled{0};
void count_signal(int) { ++handled; }
}  // namespace

TEST_CASE("a guard hears of its own signals, and the others go where they went",
          "[pool][threads][interrupt][signals]") {
    for (int number : {SIGUSR1, SIGUSR2}) signal(number, count_signal);
    sidestep::Pool pool({.processes = 1});
    sidestep::ThreadPool threads({.threads = 1});
    auto one = std::make_unique<sidestep::InterruptGuard>(pool, std::vector{SIGUSR1, SIGHUP});
    CHECK(one->last_signal() == 0);
    raise(SIGUSR2);
    CHECK(handled == 1);
    sidestep::InterruptGuard other(threads, {SIGUSR2});
    raise(SIGUSR2);
    CHECK(test::eventually([&] { return other.interrupts() == 1; }));
    CHECK(other.last_signal() == SIGUSR2);
    raise(SIGUSR1);
    CHECK(test::eventually([&] { return one->interrupts() == 1; }));
    CHECK(one->last_signal() == SIGUSR1);
    CHECK(other.interrupts() == 1);
    CHECK(handled == 1);
    CHECK_THROWS_AS(pool.submit(test::add, 1, 2), sidestep::CancelledError);
    one.reset();  // the other one stays
    raise(SIGUSR1);
    CHECK(handled == 2);
    raise(SIGUSR2);
    CHECK(test::eventually([&] { return other.interrupts() == 2; }));
    CHECK(handled == 2);
    for (int number : {SIGUSR1, SIGUSR2}) signal(number, SIG_DFL);
}

TEST_CASE("a guard refuses signals that ask no program to end", "[pool][interrupt][signals]") {
    sidestep::Pool pool({.processes = 1});
    for (int number : {0, -1, SIGKILL, SIGSTOP, SIGSEGV, SIGCHLD, 32, SIGRTMAX + 1}) {
        INFO(number);
        CHECK_THROWS_AS(sidestep::InterruptGuard(pool, {SIGINT, number}), std::invalid_argument);
        struct sigaction now = {};
        CHECK(sigaction(SIGINT, nullptr, &now) == 0);
        CHECK(now.sa_handler == SIG_DFL);
    }
    CHECK_THROWS_WITH(sidestep::InterruptGuard(pool, {SIGKILL}),
                      Catch::Contains("signal 9") && Catch::Contains("SIGTERM"));
    CHECK_THROWS_WITH(sidestep::InterruptGuard(pool, std::vector<int>()),
                      Catch::Contains("no signal"));
    CHECK(pool.apply(test::add, 1, 2) == 3);
}

TEST_CASE("Ctrl-C ends a map, whoever waits for it", "[pool][interrupt]") {
    auto method = GENERATE(from_range(methods()));
    std::string what = GENERATE("map", "map-async");
    Interrupted program(what, method);
    program.interrupt();
    auto result = program.finish();
    CHECK(result.output == "map: CancelledError\n");
    CHECK(result.exited_with(0));
}

TEST_CASE("what fails after Ctrl-C is not run again", "[pool][interrupt][retry]") {
    auto method = GENERATE(from_range(methods()));
    Interrupted program("retry", method);
    program.interrupt();
    auto result = program.finish();
    CHECK(result.output == "waiting: CancelledError\nfailed\n");
    CHECK(result.exited_with(0));
}

TEST_CASE("what an item that crashes after Ctrl-C leaves of its chunk is cancelled",
          "[pool][interrupt][map]") {
    auto method = GENERATE(from_range(methods()));
    Interrupted program("split", method);
    program.interrupt();
    auto result = program.finish();
    CHECK(result.output ==
          "0: done\n"
          "lost\n"
          "1: done\n"
          "2: CancelledError\n"
          "3: CancelledError\n");
    CHECK(result.exited_with(0));
}

TEST_CASE("a guard may outlive its pool, and counts on", "[pool][interrupt]") {
    auto pool = std::make_unique<sidestep::Pool>(sidestep::PoolOptions{.processes = 1});
    sidestep::InterruptGuard guard(*pool);
    CHECK(guard.interrupts() == 0);
    pool.reset();
    raise(SIGINT);
    CHECK(test::eventually([&] { return guard.interrupts() == 1; }));
}

TEST_CASE("every pool with a guard is interrupted, and no other", "[pool][interrupt]") {
    auto method = GENERATE(from_range(methods()));
    Interrupted program("several", method);
    program.interrupt();
    auto result = program.finish();
    CHECK(result.output == "one: CancelledError\ntwo: CancelledError\nthree: done\n");
    CHECK(result.exited_with(0));
}

TEST_CASE("after the last guard, and in a forked child, SIGINT goes where it went before",
          "[pool][interrupt][fork]") {
    auto result = test::run_program({"interrupt-restored", "spawn"});
    CHECK(result.output.empty());
    CHECK(result.exited_with(0));
}

namespace {
struct sigaction seen_before = {};
void hand_on(int number) {
    ++handled;
    seen_before.sa_handler(number);
}
struct sigaction action_of(void (*handler)(int)) {
    struct sigaction action = {};
    action.sa_handler = handler;
    return action;
}
}  // namespace

TEST_CASE("a guard that goes while another handler is in place takes no signal afterwards",
          "[pool][interrupt][signals]") {
    signal(SIGUSR1, count_signal);
    handled = 0;
    sidestep::ThreadPool pool({.threads = 1});
    // In another pool's guard, of another signal, the library's thread goes on.
    std::optional<sidestep::InterruptGuard> other;
    if (GENERATE(false, true)) other.emplace(pool, std::vector{SIGUSR2});
    auto guard = std::make_unique<sidestep::InterruptGuard>(pool, std::vector{SIGUSR1});
    SECTION("and then puts the guard's back, as system(3) does") {
        const auto ignores = action_of(SIG_IGN);
        REQUIRE(sigaction(SIGUSR1, &ignores, &seen_before) == 0);
        guard.reset();
        REQUIRE(sigaction(SIGUSR1, &seen_before, nullptr) == 0);
        for (int i = 1; i <= 2; ++i) {
            raise(SIGUSR1);
            CHECK(handled == i);
        }
    }
    SECTION("and calls the guard's") {
        const auto chained = action_of(hand_on);
        REQUIRE(sigaction(SIGUSR1, &chained, &seen_before) == 0);
        guard.reset();
        for (int i = 1; i <= 2; ++i) {
            raise(SIGUSR1);
            CHECK(handled == 2 * i);
        }
        guard = std::make_unique<sidestep::InterruptGuard>(pool, std::vector{SIGUSR1});
        raise(SIGUSR1);
        CHECK(test::eventually([&] { return guard->interrupts() == 1; }));
        guard.reset();
        raise(SIGUSR1);
        CHECK(handled == 6);
    }
    signal(SIGUSR1, SIG_DFL);
}

TEST_CASE("a ThreadPool is interrupted, too: its tasks are asked to stop", "[threads][interrupt]") {
    Interrupted program("threads", sidestep::StartMethod::spawn);
    program.interrupt();
    CHECK(program.read_line() == "waiting: CancelledError");
    CHECK(program.read_line() == "submit: CancelledError");
    CHECK(program.read_line() == "running: done");
    CHECK(program.read_line() == "again");
    program.interrupt();
    CHECK(program.read_line() == "not yet asked");
    program.interrupt();
    auto result = program.finish();
    CHECK(result.output == "asked: done\n");
    CHECK(result.exited_with(0));
}

TEMPLATE_TEST_CASE("a map that is interrupted says how much of it was done, and how to keep that",
                   "[pool][threads][interrupt]", sidestep::Pool, sidestep::ThreadPool) {
    test::SharedWords words(kWords);
    std::optional<TestType> pool;
    if constexpr (std::is_same_v<TestType, sidestep::Pool>)
        pool.emplace(sidestep::PoolOptions{.processes = 2});
    else
        pool.emplace(sidestep::ThreadPoolOptions{.threads = 2});
    std::vector<std::pair<std::string, int>> items;
    for (int i = 0; i < 8; ++i) items.emplace_back(words.path(), i);
    const bool without_results = GENERATE(false, true);
    auto guard = std::make_unique<sidestep::InterruptGuard>(*pool, std::vector{SIGUSR1});
    // Once two items run: interrupts, waits until that has its effect, lets them go on.
    auto message_of_interrupted = [&](auto future) {
        CHECK(test::eventually([&] { return words[kBegun] == 2; }));
        raise(SIGUSR1);
        CHECK(test::eventually([&] { return guard->interrupts() == 1; }));
        guard.reset();  // its step is finished
        words[kGate] = 1;
        try {
            future.get();
        } catch (const sidestep::CancelledError& error) {
            return std::string(error.what());
        }
        return std::string("it was not cancelled");
    };
    const sidestep::MapOptions options{.chunksize = 1};
    std::string text;
    if (without_results)
        text = message_of_interrupted(pool->map_async(
            [](const std::pair<std::string, int>& its) { (void)place(its); }, items, options));
    else
        text = message_of_interrupted(pool->map_async(place, items, options));
    CHECK_THAT(text, Catch::StartsWith("the task was cancelled: its pool was interrupted. "));
    CHECK(words[kDone] <= 4);
    CHECK_THAT(text, Catch::Contains(". " + std::to_string(words[kDone]) +
                                     " of the map's 8 items were done: to keep such results, loop "
                                     "over the outcomes() of imap() instead"));
}

}  // namespace interrupt_test
