// From the timeout of an API call to the one deadline that its waits are derived from. Internal.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <optional>

#include <sidestep/timeout.hpp>

namespace sidestep::inline v0::detail {

// A moment to give up at; no value: never.
using Deadline = std::optional<std::chrono::steady_clock::time_point>;

// now + timeout, if it is not for ever. A negative one is now.
inline Deadline deadline_after(Timeout timeout) {
    if (timeout.is_forever()) return {};
    auto now = std::chrono::steady_clock::now();
    return timeout.count() > 0 ? now + timeout.time() : now;
}
// No timeout: never. (A template, so that a duration has one overload to go to.)
template <std::same_as<std::optional<Timeout>> Optional>
Deadline deadline_after(const Optional& timeout) {
    return timeout ? deadline_after(*timeout) : Deadline();
}

inline bool is_over(const Deadline& deadline) {
    return deadline && std::chrono::steady_clock::now() >= *deadline;
}
inline Deadline sooner(const Deadline& a, const Deadline& b) {
    constexpr auto never = std::chrono::steady_clock::time_point::max();
    auto at = std::min(a.value_or(never), b.value_or(never));
    return at == never ? Deadline() : Deadline(at);
}

template <class Clock, class Duration>
Deadline deadline_at(const std::chrono::time_point<Clock, Duration>& moment) {
    return deadline_after(Timeout(moment));
}

}  // namespace sidestep::detail
