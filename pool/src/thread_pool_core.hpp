// The inside of a ThreadPool: the owner of its classes (threads/), and what its users call.
#pragma once

#include <functional>
#include <memory>
#include <mutex>

#include <sidestep/thread_pool.hpp>

#include "joiner.hpp"
#include "service_thread.hpp"
#include "sync/pool_mutex.hpp"
#include "sys/sys.hpp"
#include "threads/job_clock.hpp"
#include "threads/job_intake.hpp"
#include "threads/job_queue.hpp"
#include "threads/job_runner.hpp"
#include "threads/late_jobs.hpp"
#include "threads/thread_insight.hpp"
#include "threads/thread_pool_end.hpp"
#include "threads/thread_pool_state.hpp"
#include "threads/thread_team.hpp"

namespace sidestep::inline v0::detail {

class ThreadPoolCore final : public std::enable_shared_from_this<ThreadPoolCore>,
                             public EndingPool {
  public:
    explicit ThreadPoolCore(ThreadPoolOptions options);
    ~ThreadPoolCore();

    // Future::then() finds it by its number, from now on.
    void become_known() { pools_by_number().add(state_.number, weak_from_this()); }

    void run_in_background(std::function<void()> work) POOL_UNLOCKED;
    void close() POOL_UNLOCKED;
    void cancel_waiting() POOL_UNLOCKED;
    void interrupt() POOL_UNLOCKED;  // both; and nothing is run again
    void terminate() POOL_UNLOCKED;
    void ask_to_stop() POOL_UNLOCKED;
    void join() POOL_UNLOCKED override;
    bool join_until(const sys::Deadline& deadline) POOL_UNLOCKED;
    // Nobody has the pool any more: join() does not wait for what others are to do.
    void be_destroyed() POOL_UNLOCKED;
    // This thread runs tasks or callbacks of the pool, or feeds a map: it cannot join().
    bool in_own_thread() POOL_UNLOCKED override;
    void end_with_process() noexcept POOL_UNLOCKED override;
    void keep_for_ever() { self_ = shared_from_this(); }  // nobody will join()

    JobIntake& intake() { return intake_; }
    ThreadTeam& team() { return team_; }
    ThreadInsight& insight() { return insight_; }
    JobRunner& runner() { return runner_; }
    unsigned most_threads() const { return state_.most_threads(); }
    bool owned_here() const { return state_.owner.is_here(); }
    const TaskOptions& default_options() const { return state_.options.task; }
    // That this thread runs jobs of; null: of none.
    static ThreadPoolCore* of_this_thread() noexcept;

  private:
    using Lock = PoolLock;

    std::weak_ptr<ThreadTeam> weak_team();  // as long as the pool is there
    void require_joinable() POOL_UNLOCKED;
    void await_end() POOL_UNLOCKED;

    ThreadPoolState state_;
    JobQueue queue_;
    ThreadTeam team_;
    JobClock clock_;
    LateJobs late_;
    ThreadPoolEnd end_;
    ThreadInsight insight_;
    JobRunner runner_;
    JobIntake intake_;
    BackgroundThreads background_;
    std::shared_ptr<ThreadPoolCore> self_;  // see keep_for_ever()
    Joiner joiner_;
    std::mutex joining_;  // before the pool's mutex
};

}  // namespace sidestep::detail
