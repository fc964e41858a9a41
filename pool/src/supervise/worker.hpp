// A worker, as the supervisor knows it: its lane, and when it is to run.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include <sidestep/pool_stats.hpp>

#include "lanes/ring_lane.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

struct Worker {
    Worker(std::uint32_t number, LaneEvents& events, Timers& timers, const PoolOptions& options)
        : lane(number, events, timers, options) {}

    RingLane lane;
    sys::Clock::time_point respawn_at{};  // if it does not run: not before
    bool surplus = false;                 // beyond the number of workers that is wanted
    // Owned by the supervisor's thread:
    sys::Clock::time_point started_at{};
    std::optional<std::size_t> private_memory;  // at the last look; see Fleet::measure_growth()
    std::string boot_failure;                   // what it said when it could not start
};

// What is shown of it.
WorkerStats stats_of(const RingLane& lane) POOL_LOCKED;

// They stay where they are. Added in the supervisor's thread only.
using Workers = std::deque<Worker>;

}  // namespace sidestep::detail
