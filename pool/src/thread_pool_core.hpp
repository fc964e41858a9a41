// The inside of a ThreadPool: who waits, who runs, and the clock.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sidestep/pool_errors.hpp>
#include <sidestep/pool_stats.hpp>
#include <sidestep/thread_pool.hpp>

#include "joiner.hpp"
#include "life/lifecycle.hpp"
#include "life/pool_owner.hpp"
#include "service_thread.hpp"
#include "sync/pool_mutex.hpp"
#include "threads/job_clock.hpp"
#include "threads/job_extra.hpp"
#include "threads/job_queue.hpp"
#include "threads/job_runner.hpp"
#include "threads/late_jobs.hpp"
#include "threads/pool_thread.hpp"
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

    void submit(ThreadJobPtr job, const TaskOptions* options, bool begun) POOL_UNLOCKED;
    void submit_late(ThreadJobPtr job, std::vector<TaskRef> needs,
                     const TaskOptions* options) POOL_UNLOCKED;
    void check_open() POOL_UNLOCKED;
    // See thread_stream.hpp.
    static std::shared_ptr<void> take_place(const std::shared_ptr<ThreadPoolCore>& core);
    bool take_place() POOL_UNLOCKED;  // see Place
    void give_place_back() POOL_UNLOCKED;
    // Between them join() waits: a map is collected.
    void begin_map() POOL_UNLOCKED;
    void end_map() POOL_UNLOCKED;
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
    ThreadTeam& team() { return team_; }
    ThreadInsight& insight() { return insight_; }
    JobRunner& runner() { return runner_; }
    unsigned most_threads() const { return state_.most_threads(); }
    bool owned_here() const { return state_.owner.is_here(); }
    const TaskOptions& default_options() const { return state_.options.task; }
    // Throws std::invalid_argument for tokens that the pool has not.
    void check_tokens(const TaskOptions& options) const { (void)queue_.wanted(options.uses); }

    // That this thread runs jobs of; null: of none.
    static ThreadPoolCore* of_this_thread() noexcept;

  private:
    using Lock = PoolLock;

    bool is_full() const POOL_LOCKED {
        return state_.options.max_pending != 0 &&
               state_.jobs.unfinished + places_taken_ >= state_.options.max_pending;
    }
    // Not in the pool's own threads, which may be those that make room.
    void await_room() POOL_LOCKED;
    // Throws what submit() throws for these options.
    void set_options(ThreadJob& job, const TaskOptions* options) const;
    // The pool has one more job. Throws for want of memory, or of a thread; queue() does not.
    void accept(ThreadJob& job) POOL_LOCKED;
    void prepare(ThreadJob& job) POOL_LOCKED;
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
    const bool has_defaults_ = state_.options.task.says_anything();
    BackgroundThreads background_;
    std::shared_ptr<ThreadPoolCore> self_;  // see keep_for_ever()
    Joiner joiner_;
    std::mutex joining_;                         // before the pool's mutex
    std::size_t places_taken_ POOL_GUARDED = 0;  // by try_submit(), now
};

}  // namespace sidestep::detail
