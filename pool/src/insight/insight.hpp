// What a pool notes about its tasks and its workers as it goes, and hands out: stats() and trace().
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/exit_status.hpp>
#include <sidestep/pool_stats.hpp>
#include <sidestep/task.hpp>

#include "insight/slow_tasks.hpp"
#include "insight/task_names.hpp"
#include "insight/trace_writer.hpp"
#include "sync/pool_mutex.hpp"

namespace sidestep::inline v0::detail {

// A task, as it is shown.
struct TaskFacts {
    std::uint64_t number;
    std::uint64_t first_item;  // of a map's chunk
    std::uint32_t items;       // 0: it is no chunk
    std::uint16_t attempt;
    const TaskEntry* entry;
    const void* function;
    const std::string* name;  // that its user gave it; null: none
};

// One attempt of a task, from its begin to its end, whatever that was.
struct RunFacts {
    std::uint32_t worker;
    std::uint32_t track;  // of the trace: the worker, or in a pool without workers the thread
    int pid;
    std::uint64_t begun_ns;  // steady clock; may be a worker's word, unchecked: it is only shown
    std::uint64_t duration_ns;
    const char* outcome;  // a literal; "value": it did not fail
};

class Insight {
  public:
    // What a track of a trace is called: "worker", "thread".
    explicit Insight(const char* track_name) : track_names_(track_name) {}
    // Of a pool over several hosts, before it runs a task: the runs of another host are noted as
    // those of the worker and the track `first` plus its place among these.
    void name_hosts(std::uint32_t first, std::vector<std::string> hosts) {
        track_names_.first_host = first;
        track_names_.hosts = std::move(hosts);
    }

    void note_wait(std::uint64_t ns) POOL_LOCKED;  // from submit() until it was begun
    void note_run(const TaskFacts& task, const RunFacts& run) POOL_LOCKED;
    void note_retry() POOL_LOCKED { ++retried_; }
    void note_worker_started(std::uint32_t worker, int pid) POOL_LOCKED;
    // in_order: it was asked to leave, and did.
    void note_worker_ended(std::uint32_t worker, int pid, bool in_order,
                           const ExitStatus& status) POOL_LOCKED;

    // Writes what was noted into the statistics, but for the slowest tasks: their names take time.
    std::vector<SlowTasks::Entry> snapshot(PoolStats& stats) const POOL_LOCKED;
    // Threads: thread-safe, without the mutex. Milliseconds for a function that was not named yet.
    SlowTask named(const SlowTasks::Entry& task);
    std::string name(const TaskLabel& label) { return names_.name(label); }  // likewise
    TaskLabel label(const TaskFacts& task) noexcept POOL_LOCKED {
        return names_.label(*task.entry, task.function, task.name);
    }

    // Threads: thread-safe, without the mutex. See Tracing.
    void start_trace(const std::string& path) { trace_.start(path, names_, track_names_); }
    void stop_trace() { trace_.stop(); }
    void end_trace() noexcept { trace_.end(); }

  private:
    void trace_run(const TaskFacts& task, const RunFacts& run) POOL_LOCKED;
    void trace_worker(TraceEvent::Kind kind, std::uint32_t worker, int pid,
                      const ExitStatus& status) POOL_LOCKED;

    TrackNames track_names_;  // constant since name_hosts()
    Tracing trace_;
    TaskNames names_;  // label(): with the mutex held; name(): thread-safe
    Histogram wait_ POOL_GUARDED, run_ POOL_GUARDED;
    SlowTasks slowest_ POOL_GUARDED;
    std::uint64_t retried_ POOL_GUARDED = 0;
    std::uint64_t deaths_ POOL_GUARDED = 0;  // of workers, not in order
};

}  // namespace sidestep::detail
