// The rooms below that policies work on. They belong to the pool, and outlive its policies.
#pragma once

#include <sidestep/pool_options.hpp>

#include "dispatch/dispatcher.hpp"
#include "insight/insight.hpp"
#include "life/lifecycle.hpp"
#include "life/timers.hpp"
#include "memory/arena.hpp"
#include "task/hold.hpp"
#include "task/task_end.hpp"

namespace sidestep::inline v0::detail {

struct PoolRooms {
    const PoolOptions& options;
    PoolMutex& mutex;
    Sleepers& sleepers;
    Lifecycle& life POOL_GUARDED;
    Timers& timers POOL_GUARDED;
    Arena& arguments POOL_GUARDED;
    TaskEnd& task_end;
    Insight& insight;
    Dispatcher& dispatcher;
};

}  // namespace sidestep::detail
