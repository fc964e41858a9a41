// A pool of an agent's, as the agent's files know it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include <sidestep/pool.hpp>

#include "agent.hpp"
#include "pool_core.hpp"
#include "service_thread.hpp"

namespace sidestep::inline v0::detail {

// A pool here, for one over there.
struct Agent::AgentPool {
    std::uint32_t number = 0;
    std::unique_ptr<Pool> pool;      // null: it could not be made, or is ending
    std::shared_ptr<PoolCore> core;  // of the pool
    ServiceThread ending;            // waits for the end of the pool
    bool is_broken = false;          // that was said
    bool is_to_end = false;          // but there was no thread that could wait for it
    bool has_ended = false;          // its workers are gone
    std::size_t ended_tag = 0;       // comes when it has ended; 0: it is not to end yet
    std::unordered_map<std::uint64_t, std::size_t> tags;  // by the number over there
};

}  // namespace sidestep::detail
