// The rooms of a pool of processes, furnished: what PoolCore is made of.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <sidestep/pool_options.hpp>

#include "dispatch/dispatcher.hpp"
#include "dispatch/look_pace.hpp"
#include "insight/insight.hpp"
#include "life/crash_loop.hpp"
#include "life/lifecycle.hpp"
#include "life/timers.hpp"
#include "memory/arena.hpp"
#include "memory/segment.hpp"
#include "nested/nested_desk.hpp"
#include "nested/relief.hpp"
#include "policy/chunk_recovery.hpp"
#include "policy/late_tasks.hpp"
#include "policy/limits.hpp"
#include "policy/outcomes.hpp"
#include "policy/pool_end.hpp"
#include "policy/pool_rooms.hpp"
#include "policy/retry_desk.hpp"
#include "policy/stopper.hpp"
#include "service_thread.hpp"
#include "supervise/event_loop.hpp"
#include "supervise/fleet.hpp"
#include "supervise/housekeeper.hpp"
#include "supervise/supervisor.hpp"
#include "supervise/trouble.hpp"
#include "supervise/worker.hpp"
#include "supervise/worker_deaths.hpp"
#include "supervise/worker_starter.hpp"
#include "supervise/worker_talk.hpp"
#include "task/task_end.hpp"
#include "task/token_gate.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

// What the pool's processes share. Constant after construction, but for the page.
struct PoolShared {
    explicit PoolShared(const PoolOptions& options);

    Segment control_segment;
    Segment arguments;
    Fd arguments_reader;  // for workers: read only
    ControlPage* control;
    SpinPolicy spin;
    std::uint64_t wake_ns;  // what it costs to wake a worker
};

// Which tasks there are, and where.
struct PoolTasks {
    PoolTasks(const PoolOptions& options, const PoolShared& shared, CallbackThread& callbacks);

    Lifecycle life POOL_GUARDED;
    Timers timers POOL_GUARDED;
    Arena arguments POOL_GUARDED;
    TokenGate tokens;  // guarded by the mutex, but for what says otherwise
    TaskEnd task_end;
    Insight insight;
    LookPace pace;
    Dispatcher dispatcher;
};

struct PoolPolicies {
    explicit PoolPolicies(const PoolRooms& rooms);

    RetryDesk retries;
    LateTasks late;
    ChunkRecovery chunks;
    Stopper stopper;
    Limits limits;
    PoolEnd end;
    CrashLoop crash_loop POOL_GUARDED;
    Outcomes outcomes;
};

// The workers, and who sees to them.
struct PoolSupervision {
    PoolSupervision(const PoolRooms& rooms, const PoolShared& shared, PoolPolicies& policies,
                    LookPace& pace, int owner_pid, std::function<std::shared_ptr<PoolCore>()> core);

    EventLoop loop;
    Trouble trouble;
    Workers workers POOL_GUARDED;
    WorkerStarter starter;
    Relief relief;
    NestedDesk nested;
    WorkerTalk talk;
    WorkerDeaths deaths;
    Fleet fleet;
    Housekeeper housekeeper;
    Supervisor supervisor;
};

}  // namespace sidestep::detail
