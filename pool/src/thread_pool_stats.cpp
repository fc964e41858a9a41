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
        Lock lock(mutex_);
        task.label = names_.label(typeid(job), options_of(job).name);
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
    event.pid = owner_.pid();
    event.begin_ns = static_cast<std::uint64_t>(end.begun.time_since_epoch().count());
    event.duration_ns = static_cast<std::uint64_t>(end.took.count());
    event.number = job.number;
    {
        Lock lock(mutex_);
        event.label = names_.label(typeid(job), options_of(job).name);
    }
    trace_.add(event);
}

void ThreadPoolCore::trace(const std::string& path) {
    owner_.require_here();
    {
        Lock lock(mutex_);
        if (timer_ends_)
            throw std::logic_error(
                "ThreadPool::trace(): the pool has ended, nothing will happen in it");
    }
    trace_.start(path, names_, "thread");
}

void ThreadPoolCore::trace_stop() {
    owner_.require_here();
    trace_.stop();
}

unsigned ThreadPoolCore::threads() {
    owner_.require_here();
    Lock lock(mutex_);
    return static_cast<unsigned>(threads_.size());
}

unsigned ThreadPoolCore::idle_threads() {
    owner_.require_here();
    Lock lock(mutex_);
    return static_cast<unsigned>(idle_.size());
}

PoolStats ThreadPoolCore::stats() {
    owner_.require_here();
    PoolStats stats;
    std::vector<SlowTasks::Entry> slow;
    {
        Lock lock(mutex_);
        stats.submitted = next_number_ - 1;
        stats.waiting = plain_.size() + waiting_.size() + at_gate_.size() + late_.size();
        stats.failed = failed_;
        stats.cancelled = cancelled_;
        stats.tokens = tokens_.stats();
        for (const auto& thread : workers_) thread->add_to(stats, slow);
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
