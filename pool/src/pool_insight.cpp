// Statistics and traces: what the pool hands out of what was noted.
#include <algorithm>
#include <stdexcept>

#include "pool_core.hpp"
#include "process_memory.hpp"

namespace sidestep::inline v0::detail {

PoolStats PoolCore::stats() {
    require_owner();
    PoolStats stats;
    std::vector<SlowTasks::Entry> slowest;
    {
        Hold hold(mutex_, *this);
        if (drain(hold)) hold.wake_waiters();
        for (Worker& worker : supervision_.workers) {
            stats.workers.push_back(worker.lane.stats());
            if (worker.lane.front_runs() && worker.lane.task_at(0)) ++stats.running;
        }
        if (supervision_.workers.empty()) stats.running = tasks_.task_end.outstanding();
        stats.submitted = tasks_.task_end.begun();
        stats.completed = tasks_.task_end.completed();
        stats.failed = tasks_.task_end.failed();
        stats.cancelled = tasks_.task_end.cancelled();
        stats.waiting =
            tasks_.task_end.outstanding() - std::min(tasks_.task_end.outstanding(), stats.running);
        slowest = tasks_.insight.snapshot(stats);
    }
    for (const SlowTasks::Entry& task : slowest)  // names take their time
        stats.slowest.push_back(tasks_.insight.named(task));
    read_memory(stats);
    return stats;
}

// Without the mutex: it takes time. So a process may end meanwhile, and another one get its number.
void PoolCore::read_memory(PoolStats& stats) {
    for (WorkerStats& worker : stats.workers) {
        if (worker.pid == 0) continue;
        worker.resident = resident_memory(worker.pid);
        worker.proportional = proportional_memory(worker.pid);
    }
    Lock lock(mutex_);
    for (WorkerStats& worker : stats.workers)
        if (supervision_.workers[worker.index].lane.pid != worker.pid)
            worker.resident = worker.proportional = 0;
}

// --- traces ------------------------------------------------------------------------------------

void PoolCore::trace(const std::string& path) {
    require_owner();
    {
        Lock lock(mutex_);
        if (supervision_.supervisor.is_done())
            throw std::logic_error("Pool::trace(): the pool has ended, nothing will happen in it");
    }
    tasks_.insight.start_trace(path);
}

void PoolCore::trace_stop() {
    require_owner();
    tasks_.insight.stop_trace();
}

}  // namespace sidestep::detail
