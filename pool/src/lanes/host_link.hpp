// Another host, as a pool knows it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include <sidestep/detail/pool_task.hpp>

#include "lanes/host_lane.hpp"

namespace sidestep::inline v0::detail {

struct HostLink {
    // What it may have ahead of its workers: enough for some round trips over a network. A task
    // that is longer than that waits here, where it goes to whoever is free first.
    static constexpr std::uint64_t kPrefetchNs = 4'000'000;
    static constexpr std::uint64_t kMostForOneWorker = 256;
    static constexpr std::uint64_t kRoundTripNs = 100'000;
    static constexpr std::uint64_t kStuckNs = 20'000'000;

    std::uint32_t index = 0;
    std::string name;
    unsigned workers = 0;
    std::unique_ptr<HostLane> lane;  // null: it has no workers
    // What it has, by the number that its answers name. Null: nobody waits for it any more.
    std::unordered_map<std::uint64_t, PoolTask*> tasks;
    // Of them, which are to come back if they wait there, and why.
    enum class Recall : bool { for_elsewhere, cancelled };
    std::unordered_map<std::uint64_t, Recall> recalled;
    std::uint64_t heard_ns = 0;  // when it said something last, or got more than it can run
    bool ended = false;          // nothing more comes from it
    bool lost = false;
    std::uint64_t done = 0, failures = 0;

    bool takes_tasks() const { return lane && !ended; }
    bool has_room(std::uint64_t task_ns) const {
        std::uint64_t each = std::clamp<std::uint64_t>(
            kPrefetchNs / std::max<std::uint64_t>(task_ns, 1), 1, kMostForOneWorker);
        return takes_tasks() && tasks.size() < each * workers;
    }
    bool is_idle() const { return takes_tasks() && tasks.size() < workers; }
    // It has more than it can run, and nothing has ended there for long.
    bool is_stuck(std::uint64_t now_ns) const {
        return takes_tasks() && tasks.size() > workers && now_ns > heard_ns + kStuckNs;
    }
    // Nanoseconds until a new task would start there.
    std::uint64_t cost(std::uint64_t task_ns) const {
        return kRoundTripNs + tasks.size() * task_ns / workers;
    }
};

}  // namespace sidestep::detail
