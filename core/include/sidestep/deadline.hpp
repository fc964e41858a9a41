// From the timeout of an API call to the one deadline that its waits are derived from. Internal.
#pragma once

#include <chrono>
#include <optional>
#include <type_traits>

namespace sidestep::detail {

// A moment to give up at; no value: never.
using Deadline = std::optional<std::chrono::steady_clock::time_point>;

// now + timeout, without overflow: what is longer than 31 years is never. A negative one is now.
template <class Rep, class Period>
Deadline deadline_after(const std::chrono::duration<Rep, Period>& timeout) {
    auto now = std::chrono::steady_clock::now();
    using Seconds = std::chrono::duration<double>;
    constexpr Seconds kForever(1e9);
    if (!(Seconds(timeout) < kForever)) return {};
    if (timeout <= timeout.zero()) return now;
    return now + std::chrono::ceil<std::chrono::nanoseconds>(timeout);
}
// No timeout: never.
inline Deadline deadline_after(const std::optional<std::chrono::nanoseconds>& timeout) {
    return timeout ? deadline_after(*timeout) : Deadline();
}

template <class Clock, class Duration>
Deadline deadline_at(const std::chrono::time_point<Clock, Duration>& moment) {
    if constexpr (std::is_same_v<Clock, std::chrono::steady_clock>)
        return std::chrono::time_point_cast<std::chrono::nanoseconds>(moment);
    else
        return deadline_after(moment - Clock::now());
}

}  // namespace sidestep::detail
