// A thread of a ThreadPool: the jobs that it has at hand, and what it notes about those it ran.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include <sidestep/pool_stats.hpp>

#include "insight/slow_tasks.hpp"
#include "sync/pool_mutex.hpp"
#include "threads/job_extra.hpp"
#include "threads/job_list.hpp"

namespace sidestep::inline v0::detail {

// How a job ended.
struct EndedJob {
    std::chrono::steady_clock::time_point begun;
    std::chrono::nanoseconds took;
    bool was_cancelled;
    bool has_failed;
};

// A thread takes several tiny jobs at a time, and runs them one by one. Until it begins one, others
// may take that back.
class PoolThread {
  public:
    explicit PoolThread(unsigned its_index) : index(its_index) {}

    const unsigned index;

    // Guarded by the pool's mutex.
    PoolCondition woken_up;
    KeyedJobs own;           // that it alone may run
    bool is_woken = false;   // while it sleeps
    bool is_coming = true;   // it was started or woken, and has not looked yet
    bool has_batch = false;  // it took more than one job
    // Its own while it runs jobs: of those that it took, so many have ended, and that long it took.
    std::size_t ended = 0;
    std::chrono::nanoseconds took{0};

    // Threads: all of these are thread-safe.

    void give(ThreadJobPtr job) noexcept;
    // The first `count` of them.
    void give(JobList& from, std::size_t count) noexcept;
    // What it has not begun.
    JobList take_back() noexcept;
    // The first that it was given begins; null: it has none.
    ThreadJobPtr begin() noexcept;
    // Notes how `job`, which it has run, ended; the next one begins.
    ThreadJobPtr next(const ThreadJob& job, const EndedJob& end) noexcept;
    // The job that it runs is over: nothing is noted.
    void forget() noexcept;
    void ask_to_stop() noexcept;  // what runs
    void note_slow(const SlowTasks::Entry& task) noexcept;
    // A task that ran no longer is not among the slowest. Its own thread's.
    std::chrono::nanoseconds least_slow() const { return slow_.least(); }
    // Adds what it knows: but for names of tasks, which take time.
    void add_to(PoolStats& stats, std::vector<SlowTasks::Entry>& slow) const;

  private:
    mutable std::mutex mutex_;  // after the pool's
    // Guarded by mutex_.
    JobList hand_;
    ThreadJob* current_ = nullptr;
    Histogram wait_, run_;
    SlowTasks slow_;
    std::chrono::nanoseconds work_{0};
    std::uint64_t tasks_ = 0, failed_ = 0, cancelled_ = 0, retried_ = 0;
};

using PoolThreads = std::vector<std::unique_ptr<PoolThread>>;  // by index; they stay

}  // namespace sidestep::detail
