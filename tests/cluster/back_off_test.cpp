// How hub and agents wait between two looks, with a clock of the test's.
#include "back_off.hpp"

#include <chrono>

#include <catch2/catch.hpp>

namespace back_off_test {

using sidestep::detail::BackOff;
using namespace std::chrono_literals;

namespace {

// Some time after the epoch.
constexpr BackOff::Time kBegin{1h};

// Has it look once, and yield for so long.
void look(BackOff& back_off, BackOff::Time now, std::chrono::nanoseconds yield) {
    REQUIRE(back_off.next(BackOff::For::answer, now) == 0);
    REQUIRE(back_off.yields());
    back_off.came_back(now + yield);
}

}  // namespace

TEST_CASE("BackOff: looks at once for a while, then sleeps longer each time",
          "[cluster][backoff]") {
    const auto what = GENERATE(BackOff::For::anything, BackOff::For::answer);
    const bool is_answer = what == BackOff::For::answer;
    const auto looks = is_answer ? BackOff::kLooksForMore : BackOff::kLooks;
    BackOff back_off;
    for (int round = 0; round < 2; ++round) {
        BackOff::Time now = kBegin + round * 1s;
        CHECK(back_off.next(what, now) == 0);
        CHECK(back_off.next(what, now + looks - 1ns) == 0);
        now += looks;
        const unsigned most = is_answer ? BackOff::kLastBusyUs : BackOff::kLastIdleUs;
        for (unsigned us = BackOff::kFirstUs; us < most; us *= 2)
            CHECK(back_off.next(what, now) == us);
        CHECK(back_off.next(what, now) == most);
        CHECK(back_off.next(what, now) == most);
        back_off.reset();  // something has happened: from the beginning
    }
}

TEST_CASE("BackOff: while bytes are on their way no sleep is longer than the first",
          "[cluster][backoff]") {
    BackOff back_off;
    CHECK(back_off.next(BackOff::For::bytes, kBegin) == 0);
    const BackOff::Time now = kBegin + BackOff::kLooksForMore;
    for (int i = 0; i < 3; ++i) CHECK(back_off.next(BackOff::For::bytes, now) == BackOff::kFirstUs);
    // They are through, or stuck: then as after any wait.
    const bool are_stuck = GENERATE(false, true);
    const auto what = are_stuck ? BackOff::For::bytes : BackOff::For::answer;
    const BackOff::Time then = are_stuck ? kBegin + BackOff::kStuck : now;
    CHECK(back_off.next(what, then) == BackOff::kFirstUs);
    CHECK(back_off.next(what, then) == 2 * BackOff::kFirstUs);
}

TEST_CASE("BackOff: who comes back late from a yield does not yield for some time",
          "[cluster][backoff]") {
    BackOff back_off;
    BackOff::Time now = kBegin;
    look(back_off, now, BackOff::kLate - 1ns);
    look(back_off, now, BackOff::kLate);
    const BackOff::Time end = now + BackOff::kLate + BackOff::kFirstCrowd;
    now += BackOff::kLooksInCrowd;
    CHECK(back_off.next(BackOff::For::answer, now) > 0);  // and sleeps sooner
    CHECK_FALSE(back_off.yields());
    back_off.reset();
    CHECK(back_off.next(BackOff::For::answer, end - 1ns) == 0);
    CHECK_FALSE(back_off.yields());
    CHECK(back_off.next(BackOff::For::answer, end) == 0);
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
        while (back_off.next(BackOff::For::answer, now), !back_off.yields()) now += 5ms;
        return now - begin;
    };
    for (auto expected = BackOff::kFirstCrowd; expected < BackOff::kLastCrowd; expected *= 2)
        CHECK(crowd() == expected);
    CHECK(crowd() == BackOff::kLastCrowd);
    CHECK(crowd() == BackOff::kLastCrowd);
    // But not where most waits are in time: a hundred, each of two yields.
    for (const unsigned waits : {BackOff::kManyInTime - 1, BackOff::kManyInTime}) {
        for (unsigned i = 0; i < waits; ++i) {
            back_off.reset();
            look(back_off, now, 0ns);
            look(back_off, now, BackOff::kLate - 1ns);
        }
        CHECK(crowd() ==
              (waits < BackOff::kManyInTime ? BackOff::kLastCrowd : BackOff::kFirstCrowd));
    }
    CHECK(crowd() == 2 * BackOff::kFirstCrowd);  // those count no more
}

}  // namespace back_off_test
