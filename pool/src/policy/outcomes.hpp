// What becomes of a task that has left its lane.
#pragma once

#include "lanes/lane.hpp"
#include "life/crash_loop.hpp"
#include "policy/chunk_recovery.hpp"
#include "policy/limits.hpp"
#include "policy/pool_rooms.hpp"
#include "policy/retry_desk.hpp"
#include "policy/stopper.hpp"

namespace sidestep::inline v0::detail {

// Sends each of them where it belongs: to its end, to the backlog, or to a policy. All
// that it refers to outlives it.
class Outcomes final : public LaneEvents {
  public:
    struct Policies {
        RetryDesk& retries;
        ChunkRecovery& chunks;
        Stopper& stopper;
        Limits& limits;
        CrashLoop& crash_loop POOL_GUARDED;
    };
    Outcomes(const PoolRooms& rooms, const Policies& policies)
        : rooms_(rooms), policies_(policies) {}

    void given(const PoolTask& task, Hold& hold) POOL_LOCKED override;
    void finished(Lane& lane, PoolTask& task, const TaskReply& reply,
                  Hold& hold) POOL_LOCKED override;
    void lost(Lane& lane, PoolTask& task, const std::exception_ptr& error,
              Hold& hold) noexcept POOL_LOCKED override;
    void handed_back(PoolTask& task, Hold& hold) noexcept POOL_LOCKED override;
    void stopped(Stopping done, Hold& hold) noexcept POOL_LOCKED override;

  private:
    const PoolRooms rooms_;
    const Policies policies_;
};

}  // namespace sidestep::detail
