// Since when the task at the front of a lane runs, or the item that it is at, by the parent's own
// clock: between the last look that did not see it run, and the first one that did.
#pragma once

#include <chrono>
#include <cstdint>

namespace sidestep::inline v0::detail {

class FrontClock {
  public:
    using Time = std::chrono::steady_clock::time_point;

    // From now on there is another worker.
    void restart(Time now) {
        *this = {};
        looked_at_ = now;
    }
    // On each look at a front, running or not. The worker says when it began, to the nanosecond;
    // but whoever scribbles there must not stop the clock, or turn it back (I7): what does not lie
    // between two looks of ours is not believed, and then it runs since the second one.
    Time look(std::uint64_t index, std::uint64_t item, bool runs, Time said, Time now) {
        if (index_ != index || item_ != item || runs_ != runs) {
            index_ = index;
            item_ = item;
            runs_ = runs;
            not_before_ = looked_at_;
            seen_at_ = now;
        }
        looked_at_ = now;
        return said >= not_before_ && said <= seen_at_ ? said : seen_at_;
    }

  private:
    std::uint64_t index_ = 0;
    std::uint64_t item_ = 0;
    bool runs_ = false;
    Time looked_at_{}, not_before_{}, seen_at_{};
};

}  // namespace sidestep::detail
