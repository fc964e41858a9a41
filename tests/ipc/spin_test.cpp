#include "spin.hpp"

#include <sched.h>

#include <thread>

#include <catch2/catch.hpp>

#include "support.hpp"

using namespace std::chrono_literals;
namespace sys = sidestep::sys;

TEST_CASE("the cost of a wake-up is measured once, and is at most fifty microseconds",
          "[ipc][spin]") {
    cpu_set_t before, after;
    REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
    std::chrono::nanoseconds cost = sidestep::wake_up_cost();
    REQUIRE(sched_getaffinity(0, sizeof after, &after) == 0);
    CHECK(CPU_EQUAL(&before, &after));
    CHECK(cost > 0ns);
    CHECK(cost <= 50us);
    CHECK(sidestep::wake_up_cost() == cost);
}

TEST_CASE("who has one CPU only does not spin", "[ipc][spin]") {
    CHECK(sidestep::spin_budget() == (sys::usable_cpus() == 1 ? 0ns : sidestep::wake_up_cost()));
}

TEST_CASE("a spin ends when it is done, at once if it was before", "[ipc][spin]") {
    int asked = 0;
    CHECK(sidestep::spin_until(1h, [&] { return ++asked == 1; }));
    CHECK(asked == 1);
    CHECK(sidestep::spin_until(1h, [&] { return ++asked == 100; }));
    CHECK(asked == 100);
    std::atomic<bool> set{false};
    std::thread setter([&] { set = true; });
    CHECK(sidestep::spin_until(test::kPatience, [&] { return set.load(); }));
    setter.join();
}

TEST_CASE("a spin without a budget asks once; with one, it gives up", "[ipc][spin]") {
    int asked = 0;
    CHECK_FALSE(sidestep::spin_until(0ns, [&] { return ++asked, false; }));
    CHECK(asked == 1);
    CHECK_FALSE(sidestep::spin_until(1ns, [&] { return ++asked, false; }));
    CHECK(asked > 2);
    CHECK(sidestep::spin_until(0ns, [] { return true; }));
}
