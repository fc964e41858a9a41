// What the supervisor does now and then: looks at what lanes have, and gives back what nobody uses.
#pragma once

#include <chrono>

#include "dispatch/look_pace.hpp"
#include "policy/pool_rooms.hpp"
#include "supervise/fleet.hpp"
#include "supervise/worker.hpp"
#include "sync/supervisor_role.hpp"

namespace sidestep::inline v0::detail {

class Housekeeper {
  public:
    struct Pool {  // all of it outlives this object
        LookPace& pace;
        Workers& workers POOL_GUARDED;
        Fleet& fleet;
        Relief& relief;
        const Segment& arguments;
    };
    Housekeeper(const PoolRooms& rooms, const Pool& pool) : rooms_(rooms), pool_(pool) {}

    // Does what is due.
    void tidy(sys::Clock::time_point now, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;

  private:
    void look_at_lanes(sys::Clock::time_point now, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    void trim_outputs(sys::Clock::time_point now) POOL_LOCKED;
    void let_go_of_handles(sys::Clock::time_point now) POOL_LOCKED;
    void give_back_arguments(Hold& hold) POOL_LOCKED;

    const PoolRooms rooms_;
    const Pool pool_;
    std::chrono::nanoseconds trim_pause_ POOL_GUARDED{0};  // from one trim_outputs() to the next
};

}  // namespace sidestep::detail
