// How hub and agents wait between two looks, with a clock of the test's.
#include "back_off.hpp"

#include <chrono>

#include <catch2/catch.hpp>

using sidestep::detail::BackOff;
using namespace std::chrono_literals;

namespace {

// Some time after the epoch.
constexpr BackOff::Time kBegin{1h};

// Has it look once, and yield for so long.
void look(BackOff& back_off, BackOff::Time now, std::chrono::nanoseconds yield) {
    REQUIRE(back_off.next(true, now) == 0);
    REQUIRE(back_off.yields());
    back_off.came_back(now + yield);
}

}  // namespace

TEST_CASE("BackOff: looks at once for a while, then sleeps longer each time",
          "[cluster][backoff]") {
    const bool busy = GENERATE(true, false);
    BackOff back_off;
    for (int round = 0; round < 2; ++round) {
        BackOff::Time now = kBegin + round * 1s;
        CHECK(back_off.next(busy, now) == 0);
        CHECK(back_off.next(busy, now + BackOff::kLooks - 1ns) == 0);
        now += BackOff::kLooks;
        const unsigned most = busy ? BackOff::kLastBusyUs : BackOff::kLastIdleUs;
        for (unsigned us = BackOff::kFirstUs; us < most; us *= 2)
            CHECK(back_off.next(busy, now) == us);
        CHECK(back_off.next(busy, now) == most);
        CHECK(back_off.next(busy, now) == most);
        back_off.reset();  // something has happened: from the beginning
    }
}

TEST_CASE("BackOff: who comes back late from a yield does not yield for some time",
          "[cluster][backoff]") {
    BackOff back_off;
    BackOff::Time now = kBegin;
    look(back_off, now, BackOff::kLate - 1ns);
    look(back_off, now, BackOff::kLate);
    const BackOff::Time end = now + BackOff::kLate + BackOff::kFirstCrowd;
    now += BackOff::kLooksInCrowd;
    CHECK(back_off.next(true, now) > 0);  // and sleeps sooner
    CHECK_FALSE(back_off.yields());
    back_off.reset();
    CHECK(back_off.next(true, end - 1ns) == 0);
    CHECK_FALSE(back_off.yields());
    CHECK(back_off.next(true, end) == 0);
    CHECK(back_off.yields());
}

TEST_CASE("BackOff: the more often a yield is late, the longer none is tried, up to a second",
          "[cluster][backoff]") {
    BackOff back_off;
    BackOff::Time now = kBegin;
    // How long none is tried after one that is late now; `now` is the end of that.
    auto crowd = [&] {
        back_off.reset();
        look(back_off, now, BackOff::kLate);
        now += BackOff::kLate;
        const BackOff::Time begin = now;
        while (back_off.next(true, now), !back_off.yields()) now += 5ms;
        return now - begin;
    };
    for (auto expected = BackOff::kFirstCrowd; expected < BackOff::kLastCrowd; expected *= 2)
        CHECK(crowd() == expected);
    CHECK(crowd() == BackOff::kLastCrowd);
    CHECK(crowd() == BackOff::kLastCrowd);
    // And the shorter, the more often a wait was without such a one.
    back_off.reset();
    look(back_off, now, 0ns);
    CHECK(crowd() == BackOff::kLastCrowd / 2);
}
