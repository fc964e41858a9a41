// TaskTimeout::stack(): where a task was when its time was up.
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "policy_support.hpp"

namespace timeout_stack_test {

namespace mp = sidestep;
using test::error_of;
using test::get;
using test::methods;
using namespace std::chrono_literals;

namespace {

[[gnu::noinline]] void deep_inside() {
    for (;;) asm volatile("");
}
[[gnu::noinline]] int computes(int n) {
    deep_inside();
    return n + 1;
}
int waits_in_the_kernel(int n) {
    for (;;) (void)poll(nullptr, 0, -1);
    return n;
}
int waits_and_takes_no_signals(int n) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, nullptr);
    for (;;) pause();
    return n;
}
int has_a_handler(int n) {
    signal(SIGURG, [](int) {});
    for (;;) pause();
    return n;
}
int first_that_heeds(int n) {
    while (!mp::this_task::stop_requested()) {
    }
    return n;
}
int second_that_heeds(int n) {
    return mp::this_task::sleep_for(24h) ? 0 : n;  // style-ok: what is tested
}

bool names(const std::vector<std::string>& stack, const std::string& function) {
    return std::any_of(stack.begin(), stack.end(), [&](const std::string& frame) {
        return frame.find(function) != std::string::npos;
    });
}

const mp::TaskOptions kBrief{.timeout = 20ms};

// On a busy machine a worker may have no time to answer.
template <class F>
mp::TaskTimeout answered(mp::Pool& pool, F f) {
    for (int i = 0;; ++i) {
        auto error = error_of<mp::TaskTimeout>(pool.submit(kBrief, f, 1));
        if (!error.stack().empty() || i == 20) return error;
    }
}

}  // namespace

TEST_CASE("a timeout tells where the task was", "[pool][timeout][stack]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    mp::TaskTimeout error = answered(pool, computes);
    CHECK(names(error.stack(), "deep_inside"));
    CHECK(names(error.stack(), "computes"));
    CHECK_THAT(error.what(), Catch::Contains("or more time\n    in ") &&
                                 Catch::Contains("in timeout_stack_test::deep_inside()"));
    mp::TaskTimeout waits = answered(pool, waits_in_the_kernel);
    CHECK(names(waits.stack(), "waits_in_the_kernel"));
    CHECK(names(waits.stack(), "poll"));
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
}

TEST_CASE("a timeout is told at once although the task cannot say where it is",
          "[pool][timeout][stack]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    for (auto task : {waits_and_takes_no_signals, has_a_handler}) {
        auto error = error_of<mp::TaskTimeout>(pool.submit(kBrief, task, 1));
        CHECK(error.stack().empty());
        CHECK_THAT(error.what(), Catch::EndsWith("give it less to do, or more time"));
    }
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
}

TEST_CASE("each timeout of a worker that lives on has its own stack", "[pool][timeout][stack]") {
    mp::Pool pool({.processes = 1, .stop_grace = 1min});
    const int worker = pool.apply(test::own_pid);
    for (int round = 0; round < 4; ++round) {
        auto first = error_of<mp::TaskTimeout>(pool.submit(kBrief, first_that_heeds, 1));
        auto second = error_of<mp::TaskTimeout>(pool.submit(kBrief, second_that_heeds, 1));
        // A task that stops may be through before it was asked where it is.
        CHECK_FALSE(names(first.stack(), "second_that_heeds"));
        CHECK_FALSE(names(second.stack(), "first_that_heeds"));
    }
    CHECK(pool.apply(test::own_pid) == worker);
}

TEST_CASE("the item of a map that ran too long tells its stack", "[pool][timeout][stack][map]") {
    mp::Pool pool({.processes = 1});
    bool found = test::eventually([&] {
        try {
            pool.map(computes, std::vector{1, 2}, {.chunksize = 2, .task = kBrief});
            return false;
        } catch (const mp::TaskTimeout& error) {
            return error.item() == 0 && names(error.stack(), "deep_inside");
        }
    });
    CHECK(found);
}

TEST_CASE("a signal like the pool's question, from elsewhere, disturbs no task",
          "[pool][timeout][stack]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 1, .start_method = method});
    auto signals = [](int n) {
        for (int i = 0; i < 100; ++i) kill(getpid(), SIGURG);
        return n;
    };
    CHECK(get(pool.submit(signals, 5)) == 5);
    // A child of a task has the handler, and nothing to tell.
    auto forks = [](int n) {
        if (fork() == 0) {
            raise(SIGURG);
            _exit(0);
        }
        return n;
    };
    CHECK(get(pool.submit(forks, 6)) == 6);
    mp::TaskTimeout error = answered(pool, computes);
    CHECK(names(error.stack(), "deep_inside"));
}

TEST_CASE("the error of a timeout that is kept keeps no memory of its worker",
          "[pool][timeout][stack]") {
    auto mappings = [] {
        std::ifstream maps("/proc/self/maps");
        int count = 0;
        for (std::string line; std::getline(maps, line);)
            count += line.find("sidestep-results") != std::string::npos;
        return count;
    };
    const int before = mappings();
    mp::Pool pool({.processes = 1});
    std::vector<mp::TaskTimeout> kept;
    for (int i = 0; i < 3; ++i)
        kept.push_back(error_of<mp::TaskTimeout>(pool.submit(kBrief, computes, i)));
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
    CHECK(test::eventually([&] { return mappings() <= before + 1; }));
}

}  // namespace timeout_stack_test
