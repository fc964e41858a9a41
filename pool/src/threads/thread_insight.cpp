#include "threads/thread_insight.hpp"

#include <algorithm>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string_view>
#include <typeinfo>
#include <vector>

#include <sidestep/pool_errors.hpp>

#include "insight/slow_tasks.hpp"

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

TaskLabel ThreadInsight::label(const ThreadJob& job) noexcept {
    Lock lock(pool_.mutex);
    return names_.label(typeid(job), pool_.options_of(job).name);
}

void ThreadInsight::note_slow(const ThreadJob& job, PoolThread& thread,
                              std::chrono::nanoseconds took) noexcept {
    thread.note_slow({job.number, thread.index, took, label(job)});
}

// The tries of a task are one event: they were in one thread.
void ThreadInsight::trace_end(const ThreadJob& job, unsigned index, const EndedJob& end) {
    TraceEvent event;
    event.outcome = outcome_of(end.was_cancelled, job.error());
    event.failed = event.outcome != std::string_view("value");
    event.attempt = static_cast<std::uint16_t>(job.attempt);
    event.track = index;
    event.pid = pool_.owner.pid();
    event.begin_ns = static_cast<std::uint64_t>(end.begun.time_since_epoch().count());
    event.duration_ns = static_cast<std::uint64_t>(end.took.count());
    event.number = job.number;
    event.label = label(job);
    trace_.add(event);
}

void ThreadInsight::trace(const std::string& path) {
    pool_.owner.require_here();
    {
        Lock lock(pool_.mutex);
        if (ended_)
            throw std::logic_error(
                "ThreadPool::trace(): the pool has ended, nothing will happen in it");
    }
    trace_.start(path, names_, "thread");
}

void ThreadInsight::trace_stop() {
    pool_.owner.require_here();
    trace_.stop();
}

PoolStats ThreadInsight::stats() {
    pool_.owner.require_here();
    PoolStats stats;
    std::vector<SlowTasks::Entry> slow;
    {
        Lock lock(pool_.mutex);
        stats.submitted = pool_.jobs.next_number - 1;
        stats.waiting = queue_.size() + late_.size();
        stats.failed = pool_.jobs.failed;
        stats.cancelled = pool_.jobs.cancelled;
        stats.tokens = queue_.token_stats();
        for (const auto& thread : pool_.threads) thread->add_to(stats, slow);
        stats.completed = stats.submitted - stats.running - stats.waiting;
    }
    std::sort(slow.begin(), slow.end(),
              [](const auto& a, const auto& b) { return a.duration > b.duration; });
    if (slow.size() > SlowTasks::kMost) slow.resize(SlowTasks::kMost);
    for (const SlowTasks::Entry& task : slow)
        stats.slowest.push_back({task.number, task.worker, task.duration, names_.name(task.label)});
    return stats;
}

void ThreadInsight::end() {
    {
        Lock lock(pool_.mutex);
        ended_ = true;
    }
    trace_.end();
}

}  // namespace sidestep::detail
