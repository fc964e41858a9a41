// What a ThreadPool notes about its tasks, for stats().
#include <algorithm>
#include <typeinfo>

#include "demangle.hpp"
#include "sys.hpp"
#include "thread_pool_core.hpp"

namespace sidestep::detail {
namespace {

constexpr std::size_t kMostSlowTasks = 10;

}  // namespace

// A job is through, in whatever way. Without the mutex: a task has one of its own.
void ThreadPoolCore::note_end(ThreadJob& job, unsigned index, sys::Clock::time_point begun) {
    bool cancelled = job.task().cancelled(), failed = job.task().error() != nullptr;
    Lock lock(mutex_);
    if (cancelled)
        ++noted_.cancelled;
    else if (failed)
        ++noted_.failed;
    if (job.attempt == 0) return;  // it was cancelled before it began
    noted_.retried += job.attempt - 1;
    auto took = sys::Clock::now() - begun;
    noted_.wait.add(begun - job.submitted_at);
    noted_.run.add(took);
    if (noted_.workers.size() <= index) noted_.workers.resize(index + 1);
    ++noted_.workers[index].tasks;
    noted_.workers[index].work += took;

    std::vector<SlowTask>& slowest = noted_.slowest;
    if (slowest.size() == kMostSlowTasks && slowest.back().duration >= took) return;
    auto shorter = [&](const SlowTask& other) { return other.duration < took; };
    slowest.insert(std::find_if(slowest.begin(), slowest.end(), shorter),
                   {job.number, index, took, demangle(typeid(job).name())});
    if (slowest.size() > kMostSlowTasks) slowest.pop_back();
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
    stats.waiting = waiting_.size();
    for (const auto& [thread, jobs] : keyed_) stats.waiting += jobs.size();
    stats.completed = stats.submitted - stats.running - stats.waiting;
    return stats;
}

}  // namespace sidestep::detail
