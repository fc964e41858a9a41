#include "insight/insight.hpp"

#include <string_view>

#include <sidestep/detail/call_times.hpp>

namespace sidestep::inline v0::detail {
namespace {

std::chrono::nanoseconds as_duration(std::uint64_t ns) {
    return std::chrono::nanoseconds(static_cast<std::int64_t>(ns));
}

}  // namespace

void Insight::note_wait(std::uint64_t ns) { wait_.add(as_duration(ns)); }

void Insight::note_run(const TaskFacts& task, const RunFacts& run) {
    std::chrono::nanoseconds duration = as_duration(run.duration_ns);
    run_.add(duration);
    if (duration > slowest_.least())
        slowest_.add({task.number, run.worker, duration,
                      names_.label(*task.entry, task.function, task.name)});
    if (trace_.on()) trace_run(task, run);
}

void Insight::trace_run(const TaskFacts& task, const RunFacts& run) {
    TraceEvent event;
    event.outcome = run.outcome;
    event.failed = run.outcome != std::string_view("value");
    event.track = run.track;
    event.pid = run.pid;
    event.begin_ns = run.begun_ns;
    event.duration_ns = run.duration_ns;
    event.number = task.number;
    event.attempt = task.attempt;
    event.items = task.items;
    event.first_item = task.first_item;
    event.label = names_.label(*task.entry, task.function, task.name);
    trace_.add(event);
}

void Insight::note_worker_started(std::uint32_t worker, int pid) {
    trace_worker(TraceEvent::Kind::worker_started, worker, pid, {});
}

void Insight::note_worker_ended(std::uint32_t worker, int pid, bool in_order,
                                const ExitStatus& status) {
    deaths_ += in_order ? 0 : 1;
    trace_worker(in_order ? TraceEvent::Kind::worker_left : TraceEvent::Kind::worker_died, worker,
                 pid, status);
}

void Insight::trace_worker(TraceEvent::Kind kind, std::uint32_t worker, int pid,
                           const ExitStatus& status) {
    if (!trace_.on()) return;
    TraceEvent event;
    event.kind = kind;
    event.track = worker;
    event.pid = pid;
    event.begin_ns = steady_now_ns();
    event.status = status;
    trace_.add(event);
}

std::vector<SlowTasks::Entry> Insight::snapshot(PoolStats& stats) const {
    stats.wait = wait_;
    stats.run = run_;
    stats.retried = retried_;
    stats.worker_deaths = deaths_;
    return slowest_.entries();
}

SlowTask Insight::named(const SlowTasks::Entry& task) {
    const std::string* host = track_names_.host_of(task.worker);
    return {task.number, host ? 0 : task.worker, task.duration, names_.name(task.label),
            host ? *host : std::string()};
}

}  // namespace sidestep::detail
