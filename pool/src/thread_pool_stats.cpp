// What a ThreadPool notes about its tasks, for stats() and trace().
#include <unistd.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string_view>
#include <typeinfo>

#include <sidestep/pool_errors.hpp>

#include "sys/sys.hpp"
#include "text/demangle.hpp"
#include "thread_pool_core.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::size_t kMostSlowTasks = 10;

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

// A job is through, in whatever way. Without the mutex: a task has one of its own. (What is noted
// goes without memory where there is none.)
void ThreadPoolCore::note_end(ThreadJob& job, unsigned index,
                              sys::Clock::time_point begun) noexcept {
    bool cancelled = job.task().cancelled();
    std::exception_ptr error = job.task().error();
    Lock lock(mutex_);
    if (cancelled)
        ++noted_.cancelled;
    else if (error)
        ++noted_.failed;
    if (job.attempt == 0) return;  // it was cancelled before it began
    noted_.retried += job.attempt - 1;
    auto took = sys::Clock::now() - begun;
    noted_.wait.add(begun - job.submitted_at);
    noted_.run.add(took);
    if (noted_.workers.size() <= index) noted_.workers.resize(index + 1);  // there is room
    ++noted_.workers[index].tasks;
    noted_.workers[index].work += took;
    if (trace_.on()) trace_end(job, index, begun, took, outcome_of(cancelled, error));

    std::vector<SlowTask>& slowest = noted_.slowest;
    if (slowest.size() == kMostSlowTasks && slowest.back().duration >= took) return;
    auto shorter = [&](const SlowTask& other) { return other.duration < took; };
    try {
        slowest.insert(
            std::find_if(slowest.begin(), slowest.end(), shorter),
            {job.number, index, took,
             job.options.name.empty() ? demangle(typeid(job).name()) : job.options.name});
    } catch (const std::bad_alloc&) {
        return;
    }
    if (slowest.size() > kMostSlowTasks) slowest.pop_back();
}

// The tries of a task are one event: they were in one thread.
void ThreadPoolCore::trace_end(ThreadJob& job, unsigned index, sys::Clock::time_point begun,
                               std::chrono::nanoseconds took, const char* outcome) {
    TraceEvent event;
    event.outcome = outcome;
    event.failed = outcome != std::string_view("value");
    event.attempt = static_cast<std::uint16_t>(job.attempt);
    event.track = index;
    event.pid = ::getpid();
    event.begin_ns = static_cast<std::uint64_t>(begun.time_since_epoch().count());
    event.duration_ns = static_cast<std::uint64_t>(took.count());
    event.number = job.number;
    event.label = names_.label(typeid(job), job.options.name);
    trace_.add(event);
}

void ThreadPoolCore::trace(const std::string& path) {
    require_owner();
    {
        Lock lock(mutex_);
        if (timer_ends_)
            throw std::logic_error(
                "ThreadPool::trace(): the pool has ended, nothing will happen in it");
    }
    trace_.start(path, names_, "thread");
}

void ThreadPoolCore::trace_stop() {
    require_owner();
    trace_.stop();
}

unsigned ThreadPoolCore::threads() {
    require_owner();
    Lock lock(mutex_);
    return static_cast<unsigned>(threads_.size());
}

unsigned ThreadPoolCore::idle_threads() {
    require_owner();
    Lock lock(mutex_);
    return idle_;
}

PoolStats ThreadPoolCore::stats() {
    require_owner();
    Lock lock(mutex_);
    PoolStats stats = noted_;
    stats.workers.resize(std::max(stats.workers.size(), threads_.size()));
    for (std::size_t i = 0; i < stats.workers.size(); ++i)
        stats.workers[i].index = static_cast<unsigned>(i);
    stats.submitted = next_number_ - 1;
    stats.running = running_.size();
    stats.waiting = waiting_.size() + at_gate_.size() + late_.size();
    stats.tokens = tokens_.stats();
    for (const auto& [thread, jobs] : keyed_) stats.waiting += jobs.size();
    stats.completed = stats.submitted - stats.running - stats.waiting;
    return stats;
}

}  // namespace sidestep::detail
