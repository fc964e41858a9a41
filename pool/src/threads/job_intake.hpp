// What a ThreadPool takes: jobs, of whoever submits them, and the room that they need.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include <sidestep/detail/thread_job.hpp>
#include <sidestep/task_options.hpp>

#include "service_thread.hpp"
#include "sync/pool_mutex.hpp"
#include "threads/job_clock.hpp"
#include "threads/job_queue.hpp"
#include "threads/late_jobs.hpp"
#include "threads/thread_pool_state.hpp"
#include "threads/thread_team.hpp"

namespace sidestep::inline v0::detail {

// Threads: thread-safe. In a forked copy of the process: std::logic_error, but for what ends.
class JobIntake {
  public:
    struct Pool {  // all of it outlives this object
        ThreadPoolState& state;
        JobQueue& queue;
        ThreadTeam& team;
        JobClock& clock;
        LateJobs& late;
        EndingPool& ending;  // whose threads do not wait for room
    };
    // team: that of the pool, as long as the pool is there.
    JobIntake(const Pool& pool, std::function<std::weak_ptr<ThreadTeam>()> team)
        : pool_(pool),
          team_(std::move(team)),
          has_defaults_(pool.state.options.task.says_anything()) {}

    // Throws std::invalid_argument for tokens that the pool has not.
    void check_tokens(const TaskOptions& options) const { (void)pool_.queue.wanted(options.uses); }

    void submit(ThreadJobPtr&& job, const TaskOptions* options, bool begun) POOL_UNLOCKED;
    void submit_late(ThreadJobPtr job, std::vector<TaskRef> needs, const TaskOptions* options,
                     bool begun) POOL_UNLOCKED;

    void check_open() POOL_UNLOCKED;
    // Whether this thread may have to wait for a place: there is a limit, and it is not the pool's.
    bool needs_place() POOL_UNLOCKED;
    // See Place.
    bool take_place() POOL_UNLOCKED;
    void give_place_back() POOL_UNLOCKED;
    // Between them join() waits: a map is collected.
    void begin_map() POOL_UNLOCKED;
    void end_map() POOL_UNLOCKED;

  private:
    using Lock = PoolLock;

    // As many jobs as max_pending says are not done, or have their place.
    bool is_full() const POOL_LOCKED {
        const std::size_t most = pool_.state.options.max_pending;
        return most != 0 && pool_.state.jobs.unfinished + places_taken_ >= most;
    }
    void await_room() POOL_LOCKED;
    // Throws what submit() throws for these options.
    void set_options(ThreadJob& job, const TaskOptions* options) const;
    // The pool has one more job. Throws for want of memory, or of a thread; to put it somewhere
    // does not.
    void accept(ThreadJob& job) POOL_LOCKED;
    void prepare(ThreadJob& job) POOL_LOCKED;

    const Pool pool_;
    const std::function<std::weak_ptr<ThreadTeam>()> team_;
    const bool has_defaults_;
    std::size_t places_taken_ POOL_GUARDED = 0;  // by try_submit(), now
};

}  // namespace sidestep::detail
