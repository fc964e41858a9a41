// What workers say over their control sockets: once, that they are ready; and at most once, that
// they have nested tasks. Tasks have the sockets too, so whatever else comes is a stray write.
#pragma once

#include <string>

#include "nested/nested_desk.hpp"
#include "policy/pool_end.hpp"
#include "policy/pool_rooms.hpp"
#include "supervise/event_loop.hpp"
#include "supervise/trouble.hpp"
#include "supervise/worker.hpp"
#include "sync/supervisor_role.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

class WorkerTalk {
  public:
    WorkerTalk(const PoolRooms& rooms, PoolEnd& end, EventLoop& loop, Trouble& trouble,
               NestedDesk& nested)
        : rooms_(rooms), end_(end), loop_(loop), trouble_(trouble), nested_(nested) {}

    // Its socket has something.
    void look(Worker& worker) SUPERVISOR_ONLY POOL_UNLOCKED;
    // It is no worker that is dying anyhow, or is to.
    bool lives_on(const RingLane& lane) const POOL_LOCKED;

  private:
    void handle_ready(Worker& worker, const WorkerReady& ready) SUPERVISOR_ONLY POOL_UNLOCKED;
    void handle_closed(RingLane& lane) SUPERVISOR_ONLY POOL_UNLOCKED;
    void distrust(RingLane& lane) SUPERVISOR_ONLY POOL_UNLOCKED;

    const PoolRooms rooms_;
    PoolEnd& end_;
    EventLoop& loop_;
    Trouble& trouble_;
    NestedDesk& nested_;
};

}  // namespace sidestep::detail
