// What a pool takes: tasks, of whoever submits them, and the room that they need.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <sidestep/detail/pool_task.hpp>

#include "dispatch/wait_room.hpp"
#include "future_desk.hpp"
#include "life/pool_owner.hpp"
#include "policy/late_tasks.hpp"
#include "policy/other_hosts.hpp"
#include "policy/pool_rooms.hpp"
#include "policy/retry_desk.hpp"
#include "service_thread.hpp"
#include "supervise/fleet.hpp"
#include "task/token_gate.hpp"

namespace sidestep::inline v0::detail {

// Threads: thread-safe. In a forked copy of the process: std::logic_error, but for what ends.
class Intake {
  public:
    struct Pool {  // all of it outlives this object
        const PoolOwner& owner;
        RetryDesk& retries;
        ChunkRecovery& chunks;
        LateTasks& late;
        TokenGate& tokens;
        const OtherHosts& hosts;
        Fleet& fleet;
        EndingPool& ending;  // whose threads do not wait for room
    };
    Intake(const PoolRooms& rooms, const Pool& pool, const WaitRoom& waiters, FutureDesk& desk);

    // What tasks get that say nothing else; null: nothing.
    const TaskOptions* default_options() const {
        return has_default_options_ ? &rooms_.options.task : nullptr;
    }
    TokenUsePtr wanted(const std::vector<Tokens>& uses) const {
        return uses.empty() ? nullptr : pool_.tokens.wanted(uses);
    }

    void submit(const PoolTaskRef& task, TaskSink* sink, bool begun) POOL_UNLOCKED;
    void submit_late(const PoolTaskRef& task, std::unique_ptr<LateArguments> arguments,
                     bool begun) POOL_UNLOCKED;
    // A part of a chunk, for the stream that has that: also after close().
    void submit_again(const PoolTaskRef& task) POOL_UNLOCKED;

    bool accepting() POOL_UNLOCKED;  // false: closed, broken, or a forked copy
    void check_open() POOL_UNLOCKED;
    // Whether this thread may have to wait for a place: there is a limit, and it is not the pool's.
    bool needs_place();
    // See Place.
    bool take_place() POOL_UNLOCKED;
    void give_place_back() POOL_UNLOCKED;
    // Between them join() waits: a map is collected.
    void begin_map() POOL_UNLOCKED;
    void end_map() POOL_UNLOCKED;

  private:
    // As many tasks as max_pending says are not done, or have their place.
    bool is_full() const POOL_LOCKED {
        const PoolOptions& options = rooms_.options;
        return options.max_pending != 0 && *options.processes != 0 &&
               rooms_.task_end.outstanding() + places_taken_ >= options.max_pending;
    }
    void await_room(Hold& hold) POOL_LOCKED;
    void await_tokens(const PoolTask& task, Hold& hold) POOL_LOCKED;

    const PoolRooms& rooms_;
    const Pool pool_;
    const WaitRoom& waiters_;
    FutureDesk& desk_;
    const bool has_default_options_;
    std::size_t places_taken_ POOL_GUARDED = 0;  // by try_submit(), now
};

}  // namespace sidestep::detail
