// From the timeout of an API call to the one deadline that its waits are derived from.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>

#include "sys.hpp"

namespace sidestep {

// No timeout, or one beyond the end of the clock: never. A negative one: now.
inline sys::Deadline deadline_after(std::optional<std::chrono::nanoseconds> timeout) {
    if (!timeout) return {};
    auto now = sys::Clock::now();
    if (*timeout >= sys::Clock::time_point::max() - now) return {};
    return now + std::max(*timeout, std::chrono::nanoseconds(0));
}

}  // namespace sidestep
