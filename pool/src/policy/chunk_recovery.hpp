// What befalls one item of a chunk costs that item alone: what the worker had finished is kept, the
// rest becomes a task of its own.
#pragma once

#include <exception>
#include <optional>

#include <sidestep/detail/pool_task.hpp>

#include "lanes/lane.hpp"
#include "policy/pool_rooms.hpp"
#include "policy/retry_desk.hpp"
#include "task/failure_kind.hpp"

namespace sidestep::inline v0::detail {

class ChunkRecovery {
  public:
    ChunkRecovery(const PoolRooms& rooms, RetryDesk& retries) : rooms_(rooms), retries_(retries) {}

    // What the chunk at the front of the lane has finished by now. Nothing: it is no chunk, or
    // nobody can tell.
    static std::optional<PartialResult> finished(Lane& lane,
                                                 const PoolTask& task) noexcept POOL_LOCKED;
    // The chunk was ended while it ran: it completes with what it had finished, and what is left
    // of it runs on. False: that is not known, or there is no memory for its parts; it is as it
    // was.
    bool recover(PoolTask* task, std::optional<PartialResult> partial, FailureKind kind,
                 const std::exception_ptr& error, Hold& hold) noexcept POOL_LOCKED;
    // The same for one that had finished so much elsewhere. What comes after the item that is to
    // blame is a task of its own, which is returned: it has no place yet. Null: nothing comes.
    // Throws std::bad_alloc; then the task is as it was.
    PoolTaskRef split_at(PoolTask* task, PartialResult partial, FailureKind kind,
                         const std::exception_ptr& error, Hold& hold) POOL_LOCKED;
    // The pool has one more task, a part of another one.
    void add_part(const PoolTaskRef& task) POOL_LOCKED;

  private:
    const PoolRooms rooms_;
    RetryDesk& retries_;
};

}  // namespace sidestep::detail
