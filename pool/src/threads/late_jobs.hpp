// Jobs of a ThreadPool that wait for others: no thread knows of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <vector>

#include <sidestep/detail/thread_job.hpp>

#include "sync/pool_mutex.hpp"
#include "task/dependents.hpp"
#include "threads/job_list.hpp"
#include "threads/thread_pool_state.hpp"
#include "threads/thread_team.hpp"

namespace sidestep::inline v0::detail {

class LateJobs {
  public:
    class Late;
    using ByNumber = std::map<std::uint64_t, std::shared_ptr<Late>>;
    using Place = ByNumber::node_type;

    LateJobs(ThreadPoolState& pool, ThreadTeam& team) : pool_(pool), team_(team) {}

    // A place for this job, which waits for those. Throws std::bad_alloc.
    Place make_place(std::vector<TaskRef> needs, ThreadJob& job);
    // A job that was numbered has its place from now on; wait_for_needs() says for what it waits.
    // Requires: it has an `extra`.
    std::shared_ptr<Dependents::Waiting> add(Place place, ThreadJobPtr job) noexcept POOL_LOCKED;
    void wait_for_needs(const std::shared_ptr<Dependents::Waiting>& late) noexcept POOL_UNLOCKED {
        dependents_.add(late);
    }

    std::size_t size() const POOL_LOCKED { return late_.size(); }
    // All of them wait no more: their jobs are put behind those. What is returned is for forget(),
    // without the mutex.
    ByNumber take_all(JobList& jobs) noexcept POOL_LOCKED;
    void forget(const ByNumber& gone) noexcept POOL_UNLOCKED;

    // Nobody has the pool any more, and there are no other jobs.
    bool wait_in_vain() const POOL_LOCKED {
        return pool_.life.destroyed() && !late_.empty() && pool_.jobs.unfinished == late_.size();
    }
    // If nobody has the pool any more: waits until no other jobs are left, and ends these, when
    // they wait for what nobody of this pool will do.
    void end_vain_waits() POOL_UNLOCKED;

    // The caller is the thread that tells them.
    bool is_this_thread() const { return dependents_.is_this_thread(); }
    void stop() noexcept { dependents_.stop(); }

  private:
    using Lock = PoolLock;

    // It waits no more. With an error: that becomes its result.
    void let_go(Late& late, const std::exception_ptr& error, bool cancelled) noexcept POOL_UNLOCKED;

    ThreadPoolState& pool_;
    ThreadTeam& team_;
    Dependents dependents_;
    ByNumber late_ POOL_GUARDED;
    std::uint64_t left_ POOL_GUARDED = 0;  // so many have stopped waiting
};

}  // namespace sidestep::detail
