// What a ThreadPool notes about its jobs, and hands out: stats() and trace().
#pragma once

#include <chrono>
#include <string>

#include <sidestep/pool_stats.hpp>

#include "insight/task_names.hpp"
#include "insight/trace_writer.hpp"
#include "sync/pool_mutex.hpp"
#include "threads/job_queue.hpp"
#include "threads/late_jobs.hpp"
#include "threads/pool_thread.hpp"
#include "threads/thread_pool_state.hpp"

namespace sidestep::inline v0::detail {

// A thread notes what it ran beside itself (PoolThread); here is what few jobs need.
class ThreadInsight {
  public:
    ThreadInsight(ThreadPoolState& pool, const JobQueue& queue, const LateJobs& late)
        : pool_(pool), queue_(queue), late_(late) {}

    // A job that was begun has ended, in the thread that ran it.
    void note(const ThreadJob& job, PoolThread& thread, const EndedJob& end) POOL_UNLOCKED {
        if (end.took > thread.least_slow()) note_slow(job, thread, end.took);
        if (trace_.on()) trace_end(job, thread.index, end);
    }

    // Threads: thread-safe. Each throws std::logic_error in a forked copy.
    PoolStats stats() POOL_UNLOCKED;
    void trace(const std::string& path) POOL_UNLOCKED;
    void trace_stop();

    void end() POOL_UNLOCKED;  // of the pool: whoever joins it waits for the file

  private:
    using Lock = PoolLock;

    TaskLabel label(const ThreadJob& job) noexcept POOL_UNLOCKED;
    void note_slow(const ThreadJob& job, PoolThread& thread,
                   std::chrono::nanoseconds took) noexcept POOL_UNLOCKED;
    void trace_end(const ThreadJob& job, unsigned index, const EndedJob& end) POOL_UNLOCKED;

    ThreadPoolState& pool_;
    const JobQueue& queue_;
    const LateJobs& late_;
    TaskNames names_;  // label(): with the mutex held; name(): thread-safe
    Tracing trace_;
    bool ended_ POOL_GUARDED = false;
};

}  // namespace sidestep::detail
