// Timeout, and what subprocess makes of each time that can be said.
#include <sidestep/timeout.hpp>

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstring>

#include <sidestep/detail/deadline.hpp>
#include <sidestep/subprocess.hpp>

#include "sys/fd.hpp"
#include "time_cases.hpp"

namespace timeout_test {

namespace sp = sidestep::subprocess;
using namespace std::chrono_literals;
using namespace std::chrono;
using sidestep::Timeout;

namespace {

// What a child reads: nothing comes until it is closed.
class Gate {
  public:
    void shut() {
        if (writer_) return;
        std::array<int, 2> ends{};
        REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
        reader_ = sidestep::Fd(ends[0]);
        writer_ = sidestep::Fd(ends[1]);
    }
    void open() { writer_.reset(); }
    void say(const char* line) { REQUIRE(::write(writer_.get(), line, std::strlen(line)) > 0); }
    sp::InputRedirect in() const { return reader_.get(); }

  private:
    sidestep::Fd reader_, writer_;
};

template <class Call>
bool in_time(Call call) {
    try {
        call();
        return true;
    } catch (const sp::TimeoutExpired&) {
        return false;
    }
}

}  // namespace

TEST_CASE("a Timeout saturates, in every unit", "[core][timeout]") {
    test::each_eternity([](auto time) { CHECK(Timeout(time).is_forever()); });
    test::each_last_moment([](auto moment) { CHECK(Timeout(moment).is_forever()); });
    test::each_time_past([](auto time) { CHECK(Timeout(time).count() <= 0); });
    test::each_past_moment([](auto moment) { CHECK(Timeout(moment).count() <= 0); });
    CHECK(Timeout(years(32)).is_forever());
    CHECK_FALSE(Timeout(years(31)).is_forever());
    CHECK(Timeout::forever() == nanoseconds::max());
    CHECK(Timeout(duration<float>(1e30f)).is_forever());
    CHECK(Timeout(duration<std::int64_t, std::exa>::max()).is_forever());
    CHECK(Timeout(hours::min()) == Timeout(test::Seconds(-test::kInfinity)));
}

TEST_CASE("what is within 31 years is exact; parts of a nanosecond never become zero",
          "[core][timeout]") {
    CHECK(Timeout().count() == 0);
    CHECK(Timeout(years(30)) == years(30));
    CHECK(Timeout(-3h) == -3h);
    CHECK(Timeout(123'456'789'012'345'678ns).count() == 123'456'789'012'345'678);
    CHECK(Timeout(test::Seconds(0.1)) == 100ms);
    CHECK(Timeout(duration<float, std::milli>(1.5f)) == 1500us);
    CHECK(Timeout(duration<int, std::ratio<1, 3>>(1)).count() == 333'333'333);
    CHECK(Timeout(duration<int, std::pico>(1)).count() == 1);
    CHECK(Timeout(duration<int, std::pico>(-1)).count() == -1);
    CHECK(Timeout(duration<int, std::pico>(0)).count() == 0);
    CHECK(Timeout(5s) < 6s);
    CHECK(5s == Timeout(5s));
    nanoseconds back = Timeout(7ms);
    CHECK(back == 7ms);
}

TEST_CASE("a moment is converted once: to the time that is left", "[core][timeout]") {
    Timeout left = system_clock::now() + 1h;
    CHECK(left <= 1h);
    CHECK(left > 1h - test::kPatience);
    CHECK(left == Timeout(left));
    using Fine = time_point<steady_clock, duration<double>>;
    CHECK(Timeout(Fine(duration<double>(test::kInfinity))).is_forever());
}

TEST_CASE("what is no number is refused as a time, with the remedy", "[core][timeout]") {
    CHECK_THROWS_AS(Timeout(test::Seconds(test::kNaN)), std::invalid_argument);
    CHECK_THROWS_WITH(Timeout(duration<float>(std::numeric_limits<float>::quiet_NaN())),
                      Catch::Contains("not a number") && Catch::Contains("Timeout::forever()"));
    CHECK_THROWS_AS(sp::Options{.timeout = test::Seconds(test::kNaN)}, std::invalid_argument);
}

TEST_CASE("deadlines do not overflow either", "[core][timeout]") {
    using sidestep::detail::deadline_after;
    CHECK_FALSE(deadline_after(nanoseconds::max()));
    CHECK_FALSE(deadline_after(std::optional<Timeout>()));
    CHECK(*deadline_after(years(31)) > steady_clock::now() + years(30));
    auto past = *deadline_after(hours::min());
    CHECK(past <= steady_clock::now());
}

TEST_CASE("each call of subprocess that takes a time takes each time", "[core][timeout]") {
    Gate gate;
    auto shut = [&] { gate.shut(); };
    auto open = [&] { gate.open(); };
    auto check = [&](const char* name, auto wait) { test::check_times(name, shut, wait, open); };
    const sp::Args cat = {"cat"};
    check("run", [&](auto time) {
        return in_time([&] { (void)sp::run(cat, {.timeout = time, .std_in = gate.in()}); });
    });
    check("call", [&](auto time) {
        return in_time([&] { (void)sp::call(cat, {.timeout = time, .std_in = gate.in()}); });
    });
    check("check_output", [&](auto time) {
        return in_time(
            [&] { (void)sp::check_output(cat, {.timeout = time, .std_in = gate.in()}); });
    });
    check("getoutput", [&](auto time) {
        return in_time([&] { (void)sp::getoutput("cat", {.timeout = time, .std_in = gate.in()}); });
    });
    check("pipeline", [&](auto time) {
        return in_time([&] {
            (void)sp::pipeline({cat, cat}, {.timeout = time, .std_in = gate.in()});
        });
    });
    auto start = [&] {
        return sp::Popen(cat, {.std_in = gate.in(), .on_destroy = sp::OnDestroy::kill});
    };
    check("Popen::wait_for", [&](auto time) { return start().wait_for(time); });
    check("Popen::wait", [&](auto time) { return in_time([&] { (void)start().wait(time); }); });
    check("Popen::communicate",
          [&](auto time) { return in_time([&] { (void)start().communicate({}, time); }); });
    check("StopStep::wait", [&](auto time) {
        return start().stop({{0, time}, {SIGKILL, {}}}).success();
    });
}

TEST_CASE("drain_timeout takes each time", "[core][timeout]") {
    Gate gate;
    auto shut = [&] {
        gate.open();
        gate.shut();
    };
    // The child ends at once; what it leaves behind answers when it is spoken to.
    const char* const script = "exec 3<&0; (read line <&3; echo $line) & exit 0";
    auto hears = [&](auto time) {
        sp::Popen child(
            script,
            {.std_in = gate.in(), .std_out = sp::PIPE, .shell = true, .drain_timeout = time});
        return child.communicate().std_out == "late\n";
    };
    test::check_times("drain_timeout", shut, hears, [&] { gate.say("late\n"); });
    gate.open();
}

}  // namespace timeout_test
