// The supervisor's due times. White box: the class alone.
#include <chrono>

#include <catch2/catch.hpp>

#include "life/timers.hpp"

namespace timers_test {

using sidestep::detail::Timers;
using Purpose = Timers::Purpose;
using namespace std::chrono_literals;

namespace {

const Timers::Time kNow = Timers::Time(1h);

}  // namespace

TEST_CASE("the supervisor sleeps until the first due time", "[pool][rooms][timers]") {
    Timers timers;
    CHECK_FALSE(timers.first());
    timers.set(Purpose::idle, kNow + 3s);
    timers.set(Purpose::rings, kNow + 2ms);
    timers.set(Purpose::output, kNow + 20ms);
    CHECK(timers.first() == kNow + 2ms);
    timers.clear(Purpose::rings);
    CHECK(timers.first() == kNow + 20ms);
    CHECK_FALSE(timers.is_set(Purpose::rings));
}

TEST_CASE("what is due is due from that moment on, and is taken once", "[pool][rooms][timers]") {
    Timers timers;
    CHECK_FALSE(timers.is_due(Purpose::terminate, kNow));
    timers.set(Purpose::terminate, kNow);
    CHECK_FALSE(timers.take_due(Purpose::terminate, kNow - 1ns));
    CHECK(timers.is_due(Purpose::terminate, kNow));
    CHECK(timers.take_due(Purpose::terminate, kNow));
    CHECK_FALSE(timers.take_due(Purpose::terminate, kNow + 1h));
    CHECK_FALSE(timers.first());
}

TEST_CASE("a due time can be put off, or brought forward alone", "[pool][rooms][timers]") {
    Timers timers;
    timers.set_earlier(Purpose::policies, kNow + 2s);
    CHECK(timers.first() == kNow + 2s);
    timers.set_earlier(Purpose::policies, kNow + 3s);
    CHECK(timers.first() == kNow + 2s);
    timers.set_earlier(Purpose::policies, kNow + 1s);
    CHECK(timers.first() == kNow + 1s);
    timers.set(Purpose::policies, kNow + 3s);
    CHECK(timers.first() == kNow + 3s);
}

}  // namespace timers_test
