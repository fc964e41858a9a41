// What a ThreadPool notes about its tasks, for stats() and trace().
#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <typeinfo>

#include <sidestep/pool_errors.hpp>

#include "sys/sys.hpp"
#include "text/demangle.hpp"
#include "thread_pool_core.hpp"

namespace sidestep::inline v0::detail {
namespace {

const char* outcome_of(bool cancelled, const std::exception_ptr& error) {
    if (cancelled) return "cancelled";
    if (!error) return "value";
    try {
        std::rethrow_exception(error);
    } catch (const TaskTimeout&) {
        return "timeout";
    } catch (...) {
        return "error";
    }
}

}  // namespace

void ThreadPoolCore::note_slow(const ThreadJob& job, PoolThread& thread,
                               std::chrono::nanoseconds took) noexcept {
    SlowTasks::Entry task{job.number, thread.index, took, {}};
    {
        Lock lock(state_.mutex);
        task.label = names_.label(typeid(job), state_.options_of(job).name);
    }
    thread.note_slow(task);
}

// The tries of a task are one event: they were in one thread.
void ThreadPoolCore::trace_end(const ThreadJob& job, unsigned index, const EndedJob& end) {
    TraceEvent event;
    event.outcome = outcome_of(end.was_cancelled, job.error());
    event.failed = event.outcome != std::string_view("value");
    event.attempt = static_cast<std::uint16_t>(job.attempt);
    event.track = index;
    event.pid = state_.owner.pid();
    event.begin_ns = static_cast<std::uint64_t>(end.begun.time_since_epoch().count());
    event.duration_ns = static_cast<std::uint64_t>(end.took.count());
    event.number = job.number;
    {
        Lock lock(state_.mutex);
        event.label = names_.label(typeid(job), state_.options_of(job).name);
    }
    trace_.add(event);
}

void ThreadPoolCore::trace(const std::string& path) {
    state_.owner.require_here();
    {
        Lock lock(state_.mutex);
        if (ended_)
            throw std::logic_error(
                "ThreadPool::trace(): the pool has ended, nothing will happen in it");
    }
    trace_.start(path, names_, "thread");
}

void ThreadPoolCore::trace_stop() {
    state_.owner.require_here();
    trace_.stop();
}

unsigned ThreadPoolCore::threads() {
    state_.owner.require_here();
    Lock lock(state_.mutex);
    return static_cast<unsigned>(team_.size());
}

unsigned ThreadPoolCore::idle_threads() {
    state_.owner.require_here();
    Lock lock(state_.mutex);
    return static_cast<unsigned>(team_.idle());
}

PoolStats ThreadPoolCore::stats() {
    state_.owner.require_here();
    PoolStats stats;
    std::vector<SlowTasks::Entry> slow;
    {
        Lock lock(state_.mutex);
        stats.submitted = state_.jobs.next_number - 1;
        stats.waiting = queue_.size() + late_.size();
        stats.failed = state_.jobs.failed;
        stats.cancelled = state_.jobs.cancelled;
        stats.tokens = queue_.token_stats();
        for (const auto& thread : state_.threads) thread->add_to(stats, slow);
        stats.completed = stats.submitted - stats.running - stats.waiting;
    }
    std::sort(slow.begin(), slow.end(),
              [](const auto& a, const auto& b) { return a.duration > b.duration; });
    if (slow.size() > SlowTasks::kMost) slow.resize(SlowTasks::kMost);
    for (const SlowTasks::Entry& task : slow)
        stats.slowest.push_back({task.number, task.worker, task.duration, names_.name(task.label)});
    return stats;
}

}  // namespace sidestep::detail
