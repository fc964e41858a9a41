#include "pool_view.hpp"

#include <algorithm>
#include <stdexcept>

#include <sidestep/this_task.hpp>

#include "insight/task_facts.hpp"
#include "process_memory.hpp"

namespace sidestep::inline v0::detail {

std::vector<int> PoolView::worker_pids() {
    pool_.owner.require_here();
    PoolLock lock(rooms_.mutex);
    return pool_.fleet.pids();
}

std::vector<Hosts::Share> PoolView::hosts() {
    pool_.owner.require_here();
    std::vector<Hosts::Share> shares{{this_task::host(), pool_.fleet.target()}};
    PoolLock lock(rooms_.mutex);
    pool_.hosts.add_shares(shares);
    return shares;
}

PoolStats PoolView::stats() {
    pool_.owner.require_here();
    PoolStats stats;
    std::vector<SlowTasks::Entry> slowest;
    std::vector<TaskLabel> labels;
    {
        Hold hold(rooms_.mutex, rooms_.sleepers);
        const TaskEnd& ends = rooms_.task_end;
        if (rooms_.dispatcher.drain(rooms_.life.ending(), hold)) hold.wake_waiters();
        stats.workers = rows(labels);
        for (const WorkerStats& worker : stats.workers) stats.running += worker.task != 0;
        if (pool_.workers.empty())
            stats.running = ends.outstanding() - pool_.late.size() -
                            rooms_.dispatcher.backlog().waiting_at_gate();
        stats.tokens = rooms_.dispatcher.backlog().token_stats();
        stats.hosts.push_back(own_host_stats());
        pool_.hosts.add_stats(stats.hosts);
        stats.submitted = ends.begun();
        stats.completed = ends.completed();
        stats.failed = ends.failed();
        stats.cancelled = ends.cancelled();
        stats.waiting = ends.outstanding() - std::min(ends.outstanding(), stats.running);
        slowest = rooms_.insight.snapshot(stats);
    }
    for (const SlowTasks::Entry& task : slowest)  // names take their time
        stats.slowest.push_back(rooms_.insight.named(task));
    name_tasks(stats.workers, labels);
    read_memory(stats);
    return stats;
}

std::vector<WorkerStats> PoolView::workers() {
    pool_.owner.require_here();
    std::vector<TaskLabel> labels;
    std::vector<WorkerStats> workers;
    {
        PoolLock lock(rooms_.mutex);
        workers = rows(labels);
    }
    name_tasks(workers, labels);
    return workers;
}

std::vector<WorkerStats> PoolView::rows(std::vector<TaskLabel>& labels) {
    const auto now = static_cast<std::uint64_t>(sys::Clock::now().time_since_epoch().count());
    std::vector<WorkerStats> rows;
    for (Worker& worker : pool_.workers) {
        WorkerStats& row = rows.emplace_back(stats_of(worker.lane));
        TaskLabel& label = labels.emplace_back();
        const PoolTask* task = worker.lane.front_runs() ? worker.lane.task_at(0) : nullptr;
        if (!task) continue;
        row.task = task->serial;
        row.task_time = std::chrono::nanoseconds(now - worker.lane.begun_ns(now));
        label = rooms_.insight.label(facts_of(*task));
    }
    return rows;
}

void PoolView::name_tasks(std::vector<WorkerStats>& rows, const std::vector<TaskLabel>& labels) {
    for (std::size_t i = 0; i < rows.size(); ++i)
        if (rows[i].task != 0) rows[i].task_name = rooms_.insight.name(labels[i]);
}

std::string PoolView::task_name(const PoolTask& task) {
    pool_.owner.require_here();
    TaskLabel label;
    {
        PoolLock lock(rooms_.mutex);
        label = rooms_.insight.label(facts_of(task));
    }
    return rooms_.insight.name(label);
}

HostStats PoolView::own_host_stats() const {
    HostStats stats;
    stats.name = this_task::host();
    stats.processes = pool_.fleet.target();
    for (const Worker& worker : pool_.workers) {
        stats.tasks += worker.lane.tasks_ended;
        stats.in_flight += worker.lane.load.in_flight;
    }
    return stats;
}

// Without the mutex: it takes time. So a process may end meanwhile, and another one get its number.
void PoolView::read_memory(PoolStats& stats) {
    for (WorkerStats& worker : stats.workers) {
        if (worker.pid == 0) continue;
        worker.resident = resident_memory(worker.pid);
        worker.proportional = proportional_memory(worker.pid);
    }
    PoolLock lock(rooms_.mutex);
    for (WorkerStats& worker : stats.workers)
        if (pool_.workers[worker.index].lane.pid != worker.pid)
            worker.resident = worker.proportional = 0;
}

void PoolView::trace(const std::string& path) {
    pool_.owner.require_here();
    {
        PoolLock lock(rooms_.mutex);
        if (pool_.supervisor.is_done())
            throw std::logic_error("Pool::trace(): the pool has ended, nothing will happen in it");
    }
    rooms_.insight.start_trace(path);
}

void PoolView::trace_stop() {
    pool_.owner.require_here();
    rooms_.insight.stop_trace();
}

}  // namespace sidestep::detail
