// Tasks of a pool that wait for others: they are in no lane, and no worker knows of them.
#pragma once

#include <map>
#include <memory>

#include <sidestep/detail/late_arguments.hpp>
#include <sidestep/detail/pool_task.hpp>

#include "policy/pool_rooms.hpp"
#include "task/dependents.hpp"

namespace sidestep::inline v0::detail {

class LateTasks {
  public:
    explicit LateTasks(const PoolRooms& rooms) : rooms_(rooms) {}

    // A task that the pool has from now on; wait_for_needs() says it for what. Throws
    // std::bad_alloc.
    std::shared_ptr<Dependents::Waiting> add(PoolTask& task,
                                             std::unique_ptr<LateArguments> arguments) POOL_LOCKED;
    void wait_for_needs(const std::shared_ptr<Dependents::Waiting>& late) POOL_UNLOCKED {
        dependents_.add(late);
    }

    std::size_t size() const POOL_LOCKED { return waiting_.size(); }
    // Nobody has the pool any more, and there are no other tasks.
    bool wait_in_vain() const POOL_LOCKED {
        return rooms_.life.destroyed() && !waiting_.empty() &&
               rooms_.task_end.outstanding() == waiting_.size();
    }
    // How many have stopped waiting, since the pool began.
    std::uint64_t left() const POOL_LOCKED { return left_; }
    // It waits no more.
    void forget(PoolTask& task, Hold& hold) noexcept POOL_LOCKED;
    // Any of them, which waits no more; null: there is none.
    PoolTask* take_one(Hold& hold) noexcept POOL_LOCKED;

    Dependents& dependents() { return dependents_; }

  private:
    class Late;

    void begin(Late& late) noexcept POOL_UNLOCKED;
    void fail(Late& late, const std::exception_ptr& error, bool cancelled) noexcept POOL_UNLOCKED;

    const PoolRooms rooms_;
    Dependents dependents_;
    struct Entry {
        std::shared_ptr<Late> late;
        Leftover place = Leftover(1);  // for it, when it is to be dropped
    };
    std::map<PoolTask*, Entry> waiting_ POOL_GUARDED;
    std::uint64_t left_ POOL_GUARDED = 0;
};

}  // namespace sidestep::detail
