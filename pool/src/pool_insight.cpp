// Statistics and traces: what the pool notes about its tasks and workers as it goes, and hands out.
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include <sidestep/detail/call_times.hpp>

#include "pool_core.hpp"
#include "process_memory.hpp"

namespace sidestep::inline v0::detail {
namespace {

const char* outcome_of(FailureKind kind) {
    switch (kind) {
        case FailureKind::error:
            return "error";
        case FailureKind::timeout:
            return "timeout";
        case FailureKind::crash:
            return "crash";
        case FailureKind::out_of_memory:
            return "out of memory";
        case FailureKind::cancelled:
            return "cancelled";
    }
    return "";
}

}  // namespace

// --- taking notes ------------------------------------------------------------------------------

// A look at the clock costs a tenth of the shortest task: of those, few are looked at.
void PoolCore::note_submit(PoolTask& task) {
    if (task_ns_ >= WorkerMeter::kTinyTaskNs || task.serial_ % WorkerMeter::kTinyTasksForOne == 0)
        task.submitted_ns_ = steady_now_ns();
}

TaskFacts PoolCore::facts_of(const PoolTask& task) {
    return {task.serial_,
            task.first_item_ + task.items_begin_,
            task.items_end_ - task.items_begin_,
            static_cast<std::uint16_t>(task.attempts_ + 1),
            task.entry_,
            task.function_};
}

// The worker ran it to its end. Nothing hangs on the times that it wrote: they are shown.
void PoolCore::note_reply(WorkerLink& link, const Reply& reply, PoolTask& task) {
    ++link.tally.tasks;
    if (std::uint64_t submitted = std::exchange(task.submitted_ns_, 0))
        insight_.note_wait(reply.begun_ns - submitted);
    insight_.note_run(facts_of(task),
                      {link.index, link.index, link.process.pid, reply.begun_ns, reply.duration_ns,
                       reply.kind == ReplyKind::error ? "error" : "value"});
}

// It did not come to its end: its worker died, or it is stopped.
void PoolCore::note_stopped(WorkerLink& link, PoolTask& task, FailureKind kind) {
    std::uint64_t now = steady_now_ns();
    std::uint64_t begun = link.memory->words().since.load(std::memory_order_relaxed) >> 1;
    auto launched = link.tally.launch_began.time_since_epoch().count();
    if (begun < static_cast<std::uint64_t>(launched) || begun > now) begun = now;  // I7
    if (std::uint64_t submitted = std::exchange(task.submitted_ns_, 0))
        insight_.note_wait(begun - submitted);
    insight_.note_run(facts_of(task), {link.index, link.index, link.process.pid, begun, now - begun,
                                       outcome_of(kind)});
}

// In a pool without workers, where tracks are threads.
void PoolCore::note_inline(PoolTask& task, std::uint64_t begun_ns, bool failed) {
    std::uint64_t duration = steady_now_ns() - begun_ns;
    Lock lock(mutex_);
    if (task.attempts_ > 0) insight_.note_retry();
    insight_.note_run(facts_of(task), {0, static_cast<std::uint32_t>(::gettid()), owner_pid_,
                                       begun_ns, duration, failed ? "error" : "value"});
}

// --- statistics --------------------------------------------------------------------------------

WorkerStats PoolCore::stats_of(WorkerLink& link) const {
    WorkerTally tally = link.tally;
    if (link.alive) tally.add(link.memory->words(), sys::Clock::now());
    WorkerStats stats;
    stats.index = link.index;
    stats.pid = link.alive ? link.process.pid : 0;
    stats.stopped = link.alive && sys::is_stopped(link.process.pidfd.get());
    stats.tasks = tally.tasks;
    stats.restarts = tally.launches > 0 ? tally.launches - 1 : 0;
    stats.start = tally.start;
    stats.init = tally.init;
    stats.wait = tally.wait;
    stats.work = tally.work;
    stats.serialize = tally.serialize;
    return stats;
}

PoolStats PoolCore::stats() {
    require_owner();
    PoolStats stats;
    std::vector<SlowTasks::Entry> slowest;
    {
        Hold hold(mutex_, *this);
        if (drain(hold)) hold.wake_waiters();
        for (WorkerLink& link : links_) {
            stats.workers.push_back(stats_of(link));
            if (front_runs(link) && link.shadow[link.ring().position(link.ring().consumed())])
                ++stats.running;
        }
        if (links_.empty()) stats.running = task_end_.outstanding();
        stats.submitted = task_end_.begun();
        stats.completed = task_end_.completed();
        stats.failed = task_end_.failed();
        stats.cancelled = task_end_.cancelled();
        stats.waiting = task_end_.outstanding() - std::min(task_end_.outstanding(), stats.running);
        slowest = insight_.snapshot(stats);
    }
    for (const SlowTasks::Entry& task : slowest)  // names take their time
        stats.slowest.push_back(insight_.named(task));
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
        if (!links_[worker.index].alive || links_[worker.index].process.pid != worker.pid)
            worker.resident = worker.proportional = 0;
}

// --- traces ------------------------------------------------------------------------------------

void PoolCore::trace(const std::string& path) {
    require_owner();
    {
        Lock lock(mutex_);
        if (supervisor_done_)
            throw std::logic_error("Pool::trace(): the pool has ended, nothing will happen in it");
    }
    insight_.start_trace(path);
}

void PoolCore::trace_stop() {
    require_owner();
    insight_.stop_trace();
}

}  // namespace sidestep::detail
