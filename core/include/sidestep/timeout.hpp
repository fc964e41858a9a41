// Timeout: how long something may take. Every call and every option that takes time takes this
// type, and it is made of whatever says time:
//
//     future.get(500ms);
//     lock.try_lock_for(std::chrono::hours::max());
//     subprocess::run(cmd, {.timeout = std::chrono::duration<double>(0.25)});
//     connection.poll(std::chrono::system_clock::now() + 1h);
//
// It saturates: 31 years and more, infinity and the last moment of a clock are for ever, in every
// unit. Nothing overflows, here or where a Timeout is added to the time of day. Parts of a
// nanosecond are rounded, but what is not zero does not become zero.
// Zero or less: a call looks once and does not wait; an option says what it means at its field.
//
// A moment is converted once, where the Timeout is made, that is at the call: to the time that is
// left until then, by the clock of that moment. If that clock is set afterwards, nothing changes.
//
// Threads: a value.
// Errors:  std::invalid_argument for what is not a number (NaN).
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <type_traits>

namespace sidestep::inline v0 {

namespace detail {
[[noreturn]] void throw_time_is_nan();

// In nanoseconds; what is beyond them (292 years) is the largest, or the smallest, of them.
template <class Rep, class Period>
constexpr std::chrono::nanoseconds saturated(const std::chrono::duration<Rep, Period>& time) {
    using std::chrono::nanoseconds;
    constexpr long double kEdge = 9.2e18L;
    const long double ns = static_cast<long double>(time.count()) *
                           static_cast<long double>(Period::num) * 1e9L /
                           static_cast<long double>(Period::den);
    if (ns != ns) throw_time_is_nan();
    if (ns >= kEdge) return nanoseconds::max();
    if (ns <= -kEdge) return nanoseconds::min();
    if constexpr (std::is_convertible_v<std::chrono::duration<Rep, Period>, nanoseconds>) {
        return time;  // exactly
    } else {
        const auto whole = static_cast<std::int64_t>(ns < 0 ? ns - 0.5L : ns + 0.5L);
        return nanoseconds(whole != 0 ? whole : (ns > 0) - (ns < 0));
    }
}

// From `now` until `moment`.
constexpr std::chrono::nanoseconds time_between(std::chrono::nanoseconds now,
                                                std::chrono::nanoseconds moment) {
    std::int64_t left = 0;
    if (moment == std::chrono::nanoseconds::max() ||
        __builtin_sub_overflow(moment.count(), now.count(), &left))
        return moment > now ? std::chrono::nanoseconds::max() : std::chrono::nanoseconds::min();
    return std::chrono::nanoseconds(left);
}
}  // namespace detail

class Timeout {
  public:
    // Zero.
    constexpr Timeout() = default;
    template <class Rep, class Period>
    constexpr Timeout(const std::chrono::duration<Rep, Period>& time)
        : time_(bounded(detail::saturated(time))) {}
    template <class Clock, class Duration>
    requires requires { Clock::now(); }
    Timeout(const std::chrono::time_point<Clock, Duration>& moment)
        : time_(bounded(detail::time_between(detail::saturated(Clock::now().time_since_epoch()),
                                             detail::saturated(moment.time_since_epoch())))) {}

    static constexpr Timeout forever() { return std::chrono::nanoseconds::max(); }
    constexpr bool is_forever() const { return time_ == std::chrono::nanoseconds::max(); }

    // For ever: std::chrono::nanoseconds::max(). Else within 31 years, either way.
    constexpr std::chrono::nanoseconds time() const { return time_; }
    constexpr operator std::chrono::nanoseconds() const { return time_; }
    constexpr std::int64_t count() const { return time_.count(); }  // nanoseconds

    // So a Timeout can be compared with any duration.
    friend constexpr bool operator==(const Timeout&, const Timeout&) = default;
    friend constexpr auto operator<=>(const Timeout& a, const Timeout& b) {
        return a.count() <=> b.count();
    }

  private:
    static constexpr std::chrono::nanoseconds bounded(std::chrono::nanoseconds time) {
        constexpr std::chrono::seconds kForever(1'000'000'000);
        if (time >= kForever) return std::chrono::nanoseconds::max();
        return time <= -kForever ? -kForever : time;
    }

    std::chrono::nanoseconds time_{0};
};

}  // namespace sidestep
