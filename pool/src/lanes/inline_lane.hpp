// A pool without workers: tasks run inside submit(), in the thread that calls it, through the same
// archives as in a worker.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <utility>

#include <sidestep/this_task.hpp>

#include "insight/insight.hpp"
#include "lanes/lane.hpp"
#include "service_thread.hpp"
#include "task/task_end.hpp"

namespace sidestep::inline v0::detail {

// Has a task only while start() runs it, without the mutex: several threads may be there.
class InlineLane final : public Lane {
  public:
    // An attempt has failed with that: is there to be another one, at once? (It has paused.) Called
    // without the mutex.
    using Again = std::function<bool(PoolTask&, const std::exception_ptr&)>;
    struct Pool {  // what it is a part of; all of it outlives this object
        const EndingPool& itself;
        PoolMutex& mutex;
        const Arena& arguments;
        TaskEnd& task_end;
        Insight& insight;
        std::uint64_t seed;
        int pid;
        bool lines_name_tasks;  // so a name is behind each task's arguments
    };

    InlineLane(const Pool& pool, Again again);

    bool start(PoolTask& task, Hold& hold) POOL_LOCKED override;
    bool drain(Hold&) POOL_LOCKED override { return false; }
    void take_back(std::uint32_t, Hold&) noexcept POOL_LOCKED override {}
    PoolTask* task_at(std::uint32_t) const POOL_LOCKED override { return nullptr; }
    std::uint32_t waiting() POOL_LOCKED override { return 0; }
    bool front_runs() POOL_LOCKED override { return false; }
    bool stop(Hold&) noexcept POOL_LOCKED override { return false; }
    TaskError::Details describe(const PoolTask& task) const POOL_LOCKED override;
    // What tasks have as this_task::pool(). Before the first one.
    void set_nested(std::shared_ptr<NestedPool> nested) { nested_ = std::move(nested); }

  private:
    TaskContext context_of(const PoolTask& task) const;
    // Null: it has a result.
    std::exception_ptr attempt(const PoolTask& task, OutputBuffer& result) POOL_UNLOCKED;
    void note(const PoolTask& task, std::uint64_t begun_ns, bool failed) POOL_UNLOCKED;

    const Pool pool_;
    const Again again_;
    std::shared_ptr<NestedPool> nested_;
};

}  // namespace sidestep::detail
