// What the supervisor's epoll tells of.
#pragma once

#include <cstdint>

namespace sidestep::inline v0::detail {

// The pool's own bell; a worker's; its death; a message of its.
enum class EventSource : std::uint64_t { bell, ring, death, control };

inline std::uint64_t event_tag(EventSource source, std::uint32_t index) {
    return static_cast<std::uint64_t>(source) << 32 | index;
}

}  // namespace sidestep::detail
