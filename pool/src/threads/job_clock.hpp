// The timeouts of a ThreadPool's jobs: of the attempts that run.
#pragma once

#include "service_thread.hpp"
#include "sync/pool_mutex.hpp"
#include "threads/job_extra.hpp"

namespace sidestep::inline v0::detail {

// Has a thread, from the first job on that has a timeout.
class JobClock {
  public:
    explicit JobClock(PoolMutex& mutex) : mutex_(mutex) {}
    ~JobClock();
    JobClock(const JobClock&) = delete;
    JobClock& operator=(const JobClock&) = delete;

    // Gives a new job what its timeouts will take. Requires: it has an `extra`. Throws
    // std::system_error if the system gives no thread.
    void prepare(ThreadJob& job) POOL_LOCKED;
    // An attempt of the job, or of an item in it, begins, or is over, in the thread that runs it.
    void arm(ThreadJob& job, unsigned attempt) noexcept POOL_UNLOCKED {
        if (job.extra) arm(job, *job.extra, attempt);
    }
    void disarm(ThreadJob& job) noexcept POOL_UNLOCKED {
        if (job.extra) disarm(job, *job.extra);
    }

    // The caller is its thread: a callback of a job that timed out.
    bool is_this_thread() POOL_UNLOCKED;
    void end() POOL_UNLOCKED;

  private:
    using Lock = PoolLock;

    JobDeadlines::node_type timed(ThreadJob& job, Timeout timeout, bool only_asks) POOL_LOCKED;
    void arm(ThreadJob& job, JobExtra& extra, unsigned attempt) noexcept POOL_UNLOCKED;
    void disarm(ThreadJob& job, JobExtra& extra) noexcept POOL_UNLOCKED;
    void run() POOL_UNLOCKED;

    PoolMutex& mutex_;
    PoolCondition changed_;  // for the thread
    JobDeadlines deadlines_ POOL_GUARDED;
    ServiceThread thread_ POOL_GUARDED;
    bool ends_ POOL_GUARDED = false;
};

}  // namespace sidestep::detail
