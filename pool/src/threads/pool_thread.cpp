#include "threads/pool_thread.hpp"

#include <vector>

namespace sidestep::inline v0::detail {

void PoolThread::give(ThreadJobPtr job) noexcept {
    std::lock_guard lock(mutex_);
    hand_.push(std::move(job));
}

void PoolThread::give(JobList& from, std::size_t count) noexcept {
    std::lock_guard lock(mutex_);
    while (count-- > 0) hand_.push(from.pop());
}

JobList PoolThread::take_back() noexcept {
    std::lock_guard lock(mutex_);
    return std::move(hand_);
}

ThreadJobPtr PoolThread::begin() noexcept {
    std::lock_guard lock(mutex_);
    ThreadJobPtr job = hand_.pop();
    current_ = job.get();
    return job;
}

ThreadJobPtr PoolThread::next(const ThreadJob& job, const EndedJob& end) noexcept {
    const std::chrono::steady_clock::time_point nobody_looked;
    std::lock_guard lock(mutex_);
    cancelled_ += end.was_cancelled;
    failed_ += end.has_failed;
    if (job.attempt > 0) {  // or it was cancelled before it began
        retried_ += job.attempt - 1;
        if (job.submitted_at != nobody_looked) wait_.add(end.begun - job.submitted_at);
        run_.add(end.took);
        work_ += end.took;
        ++tasks_;
    }
    ++ended;
    ThreadJobPtr next = hand_.pop();
    current_ = next.get();
    return next;
}

void PoolThread::forget() noexcept {
    std::lock_guard lock(mutex_);
    current_ = nullptr;
    ++ended;
}

void PoolThread::ask_to_stop() noexcept {
    std::lock_guard lock(mutex_);
    if (current_) current_->ask_to_stop();
}

void PoolThread::note_slow(const SlowTasks::Entry& task) noexcept {
    std::lock_guard lock(mutex_);
    slow_.add(task);
}

void PoolThread::add_to(PoolStats& stats, std::vector<SlowTasks::Entry>& slow) const {
    std::lock_guard lock(mutex_);
    stats.waiting += hand_.size() + own.size();
    stats.running += current_ ? 1 : 0;
    stats.failed += failed_;
    stats.cancelled += cancelled_;
    stats.retried += retried_;
    stats.wait += wait_;
    stats.run += run_;
    WorkerStats worker;
    worker.index = index;
    worker.tasks = tasks_;
    worker.work = work_;
    stats.workers.push_back(std::move(worker));
    slow.insert(slow.end(), slow_.entries().begin(), slow_.entries().end());
}

}  // namespace sidestep::detail
