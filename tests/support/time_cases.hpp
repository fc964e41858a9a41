// What a caller may say for a time, tried on one call that takes a time.
#pragma once

#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <fstream>
#include <functional>
#include <future>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "support.hpp"

namespace test {

using Seconds = std::chrono::duration<double>;
inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Calls check(time) with each.
template <class Check>
void each_eternity(Check check) {
    check(std::chrono::hours::max());
    check(std::chrono::seconds::max());
    check(std::chrono::milliseconds::max());
    check(std::chrono::nanoseconds::max());
    check(std::chrono::years(300));
    check(Seconds(kInfinity));
}
template <class Check>
void each_last_moment(Check check) {
    check(std::chrono::steady_clock::time_point::max());
    check(std::chrono::system_clock::time_point::max());
    check(std::chrono::time_point<std::chrono::system_clock, std::chrono::hours>::max());
}
template <class Check>
void each_time_past(Check check) {
    check(0s);
    check(-1ns);
    check(std::chrono::hours::min());
    check(std::chrono::nanoseconds::min());
    check(Seconds(-kInfinity));
}
template <class Check>
void each_past_moment(Check check) {
    check(std::chrono::steady_clock::now());
    check(std::chrono::steady_clock::time_point::min());
    check(std::chrono::system_clock::now() - 1h);
}

// A call in a thread of its own.
class PendingCall {
  public:
    explicit PendingCall(std::function<bool()> call)
        : result_(std::async(std::launch::async, [this, call = std::move(call)] {
              thread_ = ::gettid();
              return call();
          })) {}
    PendingCall(const PendingCall&) = delete;
    PendingCall& operator=(const PendingCall&) = delete;

    bool returned() { return result_.wait_for(0s) == std::future_status::ready; }
    bool asleep() {
        std::ifstream file("/proc/self/task/" + std::to_string(thread_) + "/stat");
        std::string stat(std::istreambuf_iterator<char>(file), {});
        std::size_t name_end = stat.rfind(')');
        return name_end != std::string::npos && stat.substr(name_end + 2, 1) == "S";
    }
    bool get() { return result_.get(); }

  private:
    std::atomic<int> thread_{0};
    std::future<bool> result_;
};

// How a call that waits is tried: before() sees to it that what is waited for is not there, event()
// that it is. The call says whether it came.
struct Trial {
    std::function<void()> before, event;

    bool outlasts(std::function<bool()> wait) const {
        before();
        PendingCall call(std::move(wait));
        (void)eventually([&] { return call.returned() || call.asleep(); });
        if (!call.returned()) event();
        return call.get();
    }
    bool waits(std::function<bool()> wait) const {
        before();
        return PendingCall(std::move(wait)).get();
    }
};

// wait(time) is that call.
template <class Wait>
void check_moments(const std::string& name, const std::function<void()>& before, Wait wait,
                   const std::function<void()>& event) {
    INFO(name);
    Trial trial{before, event};
    auto with = [&](auto moment) { return [&wait, moment] { return wait(moment); }; };
    each_last_moment([&](auto moment) { CHECK(trial.outlasts(with(moment))); });
    each_past_moment([&](auto moment) { CHECK_FALSE(trial.waits(with(moment))); });
    using Moment = std::chrono::time_point<std::chrono::steady_clock, Seconds>;
    CHECK_THROWS_AS(trial.waits(with(Moment(Seconds(kNaN)))), std::invalid_argument);
    CHECK(trial.outlasts(with(std::chrono::system_clock::now() + 1h)));
}
template <class Wait>
void check_durations(const std::string& name, const std::function<void()>& before, Wait wait,
                     const std::function<void()>& event) {
    INFO(name);
    Trial trial{before, event};
    auto with = [&](auto time) { return [&wait, time] { return wait(time); }; };
    each_eternity([&](auto time) { CHECK(trial.outlasts(with(time))); });
    each_time_past([&](auto time) { CHECK_FALSE(trial.waits(with(time))); });
    CHECK_THROWS_AS(trial.waits(with(Seconds(kNaN))), std::invalid_argument);
    CHECK_FALSE(trial.waits(with(Seconds(1e-3))));
}
// For a call that takes both.
template <class Wait>
void check_times(const std::string& name, const std::function<void()>& before, Wait wait,
                 const std::function<void()>& event) {
    check_durations(name, before, wait, event);
    check_moments(name, before, wait, event);
}

}  // namespace test
