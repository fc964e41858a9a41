// Stops tasks: those that wait, by taking them out of where they wait; one that runs, by the
// ladder: its flag, then SIGTERM, then SIGKILL.
//
// A task that runs is stopped by taking it out of its lane: its future is done at once (unless it
// is to be run again), what waits behind it is handed back, and the lane takes nothing new. So when
// its worker is ended by a signal, or finishes in time, no other task can be hit.
#pragma once

#include <cstdint>
#include <exception>
#include <optional>

#include <sidestep/detail/pool_task.hpp>

#include "lanes/lane.hpp"
#include "policy/chunk_recovery.hpp"
#include "policy/late_tasks.hpp"
#include "policy/pool_rooms.hpp"
#include "policy/retry_desk.hpp"
#include "sys/sys.hpp"
#include "task/failure_kind.hpp"

namespace sidestep::inline v0::detail {

class Stopper {
  public:
    Stopper(const PoolRooms& rooms, RetryDesk& retries, LateTasks& late, ChunkRecovery& chunks)
        : rooms_(rooms), retries_(retries), late_(late), chunks_(chunks) {}

    // The task at the front of the lane, which runs; with this as its result. `item`: which item of
    // a chunk is to blame. False: it cannot be, or that item has ended.
    bool stop(Lane& lane, FailureKind kind, std::exception_ptr error, Hold& hold,
              std::optional<std::uint64_t> item = {}) POOL_LOCKED;
    // The lane is done with it.
    void stopped(Stopping done, Hold& hold) noexcept POOL_LOCKED;
    // If it is time, the next rung for what the lane is to stop.
    void climb(Lane& lane, sys::Clock::time_point now, Hold& hold) POOL_LOCKED;
    bool is_idle() const POOL_LOCKED { return count_ == 0; }  // nothing is being stopped

    // As users ask for it. running_too: else only if it was not begun. True: it is cancelled.
    bool cancel(PoolTask& task, bool running_too, Hold& hold) POOL_LOCKED;
    // From now on it comes before what waits and has a lower priority than this.
    void hurry(PoolTask& task, std::int32_t priority, Hold& hold) POOL_LOCKED;

  private:
    bool forget_waiting(PoolTask& task, Hold& hold) POOL_LOCKED;

    const PoolRooms rooms_;
    RetryDesk& retries_;
    LateTasks& late_;
    ChunkRecovery& chunks_;
    unsigned count_ POOL_GUARDED = 0;  // of tasks that are being stopped
};

}  // namespace sidestep::detail
