// What a thread of a ThreadPool does with the jobs that it takes, from its begin to its end.
#pragma once

#include <exception>
#include <memory>
#include <utility>

#include <sidestep/detail/nested_pool.hpp>
#include <sidestep/task_options.hpp>

#include "sync/pool_mutex.hpp"
#include "threads/job_clock.hpp"
#include "threads/pool_thread.hpp"
#include "threads/thread_insight.hpp"
#include "threads/thread_pool_end.hpp"
#include "threads/thread_pool_state.hpp"
#include "threads/thread_team.hpp"

namespace sidestep::inline v0::detail {

class JobRunner {
  public:
    struct Pool {  // all of it outlives this object
        ThreadPoolState& state;
        ThreadTeam& team;
        JobClock& clock;
        ThreadPoolEnd& end;
        ThreadInsight& insight;
    };
    explicit JobRunner(const Pool& pool) : pool_(pool) {}

    // What its jobs have as this_task::pool(). Before the first one.
    void set_nested(std::shared_ptr<NestedPool> nested) { nested_ = std::move(nested); }

    void run(PoolThread& thread) POOL_UNLOCKED;
    // An attempt of the job that this thread runs failed; see retry_here().
    bool retry(const Retry& retry, unsigned attempts,
               const std::exception_ptr& error) POOL_UNLOCKED;

  private:
    using Lock = PoolLock;

    // False: the initializer threw, and the pool is broken.
    bool initialize(unsigned index) POOL_UNLOCKED;
    void finalize();
    void run_all(PoolThread& thread) POOL_UNLOCKED;
    void run_job(ThreadJob& job, PoolThread& thread) POOL_UNLOCKED;
    void run_attempts(ThreadJob& job, PoolThread& thread) POOL_UNLOCKED;
    bool was_interrupted() POOL_UNLOCKED;

    const Pool pool_;
    std::shared_ptr<NestedPool> nested_;
};

}  // namespace sidestep::detail
