// A pool, as it is shown: its statistics, its traces, its workers.
#pragma once

#include <string>
#include <vector>

#include <sidestep/pool_stats.hpp>

#include "lanes/host_lane.hpp"
#include "life/pool_owner.hpp"
#include "policy/late_tasks.hpp"
#include "policy/other_hosts.hpp"
#include "policy/pool_rooms.hpp"
#include "supervise/fleet.hpp"
#include "supervise/supervisor.hpp"
#include "supervise/worker.hpp"

namespace sidestep::inline v0::detail {

// Threads: thread-safe. Each call throws std::logic_error in a forked copy.
class PoolView {
  public:
    struct Pool {  // all of it outlives this object
        const PoolOwner& owner;
        Workers& workers POOL_GUARDED;
        const Fleet& fleet;
        const Supervisor& supervisor;
        const OtherHosts& hosts POOL_GUARDED;
        const LateTasks& late;
    };
    PoolView(const PoolRooms& rooms, const Pool& pool) : rooms_(rooms), pool_(pool) {}

    std::vector<int> worker_pids() POOL_UNLOCKED;
    std::vector<Hosts::Share> hosts() POOL_UNLOCKED;  // this one first
    PoolStats stats() POOL_UNLOCKED;
    std::vector<WorkerStats> workers() POOL_UNLOCKED;  // the same rows, but for their memory: cheap
    std::string task_name(const PoolTask& task) POOL_UNLOCKED;
    void trace(const std::string& path) POOL_UNLOCKED;
    void trace_stop();

  private:
    HostStats own_host_stats() const POOL_LOCKED;
    // Without their tasks' names, which take time: those are in `labels`.
    std::vector<WorkerStats> rows(std::vector<TaskLabel>& labels) POOL_LOCKED;
    void name_tasks(std::vector<WorkerStats>& rows, const std::vector<TaskLabel>& labels);
    void read_memory(PoolStats& stats) POOL_UNLOCKED;

    const PoolRooms& rooms_;
    const Pool pool_;
};

}  // namespace sidestep::detail
