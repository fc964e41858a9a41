// Statistics and traces: what the pool notes about its tasks and workers as it goes, and hands out.
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include <sidestep/call_times.hpp>

#include "pool_core.hpp"
#include "process_memory.hpp"

namespace sidestep::inline v0::detail {
namespace {

std::chrono::nanoseconds as_time(std::uint64_t ns) {
    return std::chrono::nanoseconds(static_cast<std::int64_t>(ns));
}

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

// The worker ran it to its end. Nothing hangs on the times that it wrote: they are shown.
void PoolCore::note_reply(WorkerLink& link, const Reply& reply, PoolTask& task) {
    ++link.tally.tasks;
    if (std::uint64_t submitted = std::exchange(task.submitted_ns_, 0))
        meters_.wait.add(as_time(reply.begun_ns - submitted));
    note_run(link.index, as_time(reply.duration_ns), task);
    if (!trace_.on()) return;
    TraceEvent event;
    event.failed = reply.kind == ReplyKind::error;
    event.outcome = event.failed ? "error" : "value";
    event.track = link.index;
    event.pid = link.process.pid;
    event.begin_ns = reply.begun_ns;
    event.duration_ns = reply.duration_ns;
    trace_task(event, task);
}

void PoolCore::note_run(std::uint32_t worker, std::chrono::nanoseconds duration, PoolTask& task) {
    meters_.run.add(duration);
    if (duration > meters_.slowest.least())
        meters_.slowest.add(
            {task.serial_, worker, duration, names_.label(*task.entry_, task.function_)});
}

// It did not come to its end: its worker died, or it is stopped.
void PoolCore::note_stopped(WorkerLink& link, PoolTask& task, FailureKind kind) {
    std::uint64_t now = steady_now_ns();
    std::uint64_t begun = link.memory->words().since.load(std::memory_order_relaxed) >> 1;
    auto launched = link.tally.launch_began.time_since_epoch().count();
    if (begun < static_cast<std::uint64_t>(launched) || begun > now) begun = now;  // I7
    if (std::uint64_t submitted = std::exchange(task.submitted_ns_, 0))
        meters_.wait.add(as_time(begun - submitted));
    note_run(link.index, as_time(now - begun), task);
    if (!trace_.on()) return;
    TraceEvent event;
    event.failed = true;
    event.outcome = outcome_of(kind);
    event.track = link.index;
    event.pid = link.process.pid;
    event.begin_ns = begun;
    event.duration_ns = now - begun;
    trace_task(event, task);
}

// In a pool without workers, where tracks are threads.
void PoolCore::note_inline(PoolTask& task, std::uint64_t begun_ns, bool failed) {
    std::uint64_t duration = steady_now_ns() - begun_ns;
    Lock lock(mutex_);
    if (task.attempts_ > 0) ++meters_.retried;
    note_run(0, as_time(duration), task);
    if (!trace_.on()) return;
    TraceEvent event;
    event.failed = failed;
    event.outcome = failed ? "error" : "value";
    event.track = static_cast<std::uint32_t>(::gettid());
    event.pid = owner_pid_;
    event.begin_ns = begun_ns;
    event.duration_ns = duration;
    trace_task(event, task);
}

void PoolCore::trace_task(TraceEvent event, const PoolTask& task) {
    event.number = task.serial_;
    event.attempt = static_cast<std::uint16_t>(task.attempts_ + 1);
    event.items = task.items_end_ - task.items_begin_;
    event.first_item = task.first_item_ + task.items_begin_;
    event.label = names_.label(*task.entry_, task.function_);
    trace_.add(event);
}

void PoolCore::trace_worker(const WorkerLink& link, TraceEvent::Kind kind,
                            const ExitStatus& status) {
    if (!trace_.on()) return;
    TraceEvent event;
    event.kind = kind;
    event.track = link.index;
    event.pid = link.process.pid;
    event.begin_ns = steady_now_ns();
    event.status = status;
    trace_.add(event);
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
        if (links_.empty()) stats.running = outstanding_;
        stats.wait = meters_.wait;
        stats.run = meters_.run;
        stats.submitted = next_serial_ - 1;
        stats.completed = completed_;
        stats.failed = meters_.failed;
        stats.cancelled = meters_.cancelled;
        stats.retried = meters_.retried;
        stats.worker_deaths = meters_.deaths;
        stats.waiting = outstanding_ - std::min(outstanding_, stats.running);
        slowest = meters_.slowest.entries();
    }
    for (const SlowTasks::Entry& task : slowest)  // names take their time
        stats.slowest.push_back({task.number, task.worker, task.duration, names_.name(task.label)});
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
    trace_.start(path, names_, options_.processes == 0u ? "thread" : "worker");
}

void PoolCore::trace_stop() {
    require_owner();
    trace_.stop();
}

}  // namespace sidestep::detail
