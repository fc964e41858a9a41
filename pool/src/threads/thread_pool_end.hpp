// What becomes of a ThreadPool's jobs when the pool ends before they do.
#pragma once

#include <exception>

#include "sync/pool_mutex.hpp"
#include "threads/job_queue.hpp"
#include "threads/late_jobs.hpp"
#include "threads/thread_pool_state.hpp"
#include "threads/thread_team.hpp"

namespace sidestep::inline v0::detail {

// The callbacks of those that have not begun run in the thread that ends them here; join() in
// another thread waits for them.
class ThreadPoolEnd {
  public:
    ThreadPoolEnd(ThreadPoolState& pool, JobQueue& queue, ThreadTeam& team, LateJobs& late)
        : pool_(pool), queue_(queue), team_(team), late_(late) {}

    void cancel_waiting() noexcept POOL_UNLOCKED { end_waiting(nullptr); }
    // The pool is broken, for that reason (a BrokenPool), unless it was before: so is what waits.
    void break_down(std::exception_ptr reason) noexcept POOL_UNLOCKED;
    // The caller is such a callback.
    bool is_this_thread() const noexcept;

  private:
    using Lock = PoolLock;

    // With this error; null: they are cancelled.
    void end_waiting(const std::exception_ptr& error) noexcept POOL_UNLOCKED;

    ThreadPoolState& pool_;
    JobQueue& queue_;
    ThreadTeam& team_;
    LateJobs& late_;
};

}  // namespace sidestep::detail
