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
    Housekeeper(const PoolRooms& rooms, LookPace& pace, Workers& workers, Fleet& fleet,
                const Segment& arguments)
        : rooms_(rooms), pace_(pace), workers_(workers), fleet_(fleet), arguments_(arguments) {}

    // Does what is due.
    void tidy(sys::Clock::time_point now, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;

  private:
    void look_at_lanes(sys::Clock::time_point now, Hold& hold) SUPERVISOR_ONLY POOL_LOCKED;
    void trim_outputs(sys::Clock::time_point now) POOL_LOCKED;
    void let_go_of_handles(sys::Clock::time_point now) POOL_LOCKED;
    void give_back_arguments(Hold& hold) POOL_LOCKED;

    const PoolRooms rooms_;
    LookPace& pace_;
    Workers& workers_ POOL_GUARDED;
    Fleet& fleet_;
    const Segment& arguments_;
    std::chrono::nanoseconds trim_pause_ POOL_GUARDED{0};  // from one trim_outputs() to the next
};

}  // namespace sidestep::detail
