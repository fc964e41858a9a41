// Taking tasks back that have not begun, and giving them to lanes that have nothing to do.
#include <algorithm>
#include <cstdint>

#include "dispatch/dispatcher.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::uint32_t kLooksToTakeBack = 5;  // then tasks leave a stuck lane though none is idle

}  // namespace

void Dispatcher::take_back_waiting(Lane& lane, Hold& hold) {
    if (lane.load.in_flight > 0) lane.take_back(lane.load.in_flight - lane.waiting(), hold);
}

void Dispatcher::take_back_stuck(Hold& hold) {
    for (Lane* lane : lanes_)
        if (lane->load.stuck >= kLooksToTakeBack) take_back_waiting(*lane, hold);
    if (elsewhere_ && backlog_.empty())
        elsewhere_->take_back_stuck(std::any_of(lanes_.begin(), lanes_.end(),
                                                [&](const Lane* lane)
                                                    POOL_LOCKED { return is_idle(*lane); }));
}

// Of those behind whose front enough waits to wake another worker for it, the lane where the oldest
// task waits that any may do.
Lane* Dispatcher::oldest_queue() {
    Lane* oldest = nullptr;
    std::uint64_t oldest_serial = 0;
    for (Lane* lane : lanes_) {
        std::uint32_t in_flight = lane->load.in_flight;
        if (in_flight == 0) continue;
        std::uint32_t count = lane->waiting();
        bool is_soon = count * mean_.ns() <= machine_.wake_ns || crowded();
        if (count == 0 || (lane->load.stuck == 0 && is_soon)) continue;
        const PoolTask* first = nullptr;
        for (; count > 0 && !first; --count) {
            first = lane->task_at(in_flight - count);
            if (first && backlog_.list_of(*first) != Backlog::kAnyWorker) first = nullptr;
        }
        if (!first || (oldest && first->serial >= oldest_serial)) continue;
        oldest = lane;
        oldest_serial = first->serial;
    }
    return oldest;
}

// The oldest first: a task may wait for one that was submitted before it, and that would stay
// behind a task that runs for ever.
void Dispatcher::rebalance(bool ending, Hold& hold) {
    for (std::size_t i = 0; i < lanes_.size() && backlog_.empty() && !ending; ++i) {
        auto idle = static_cast<std::uint64_t>(
            std::count_if(lanes_.begin(), lanes_.end(),
                          [&](const Lane* lane) POOL_LOCKED { return is_idle(*lane); }));
        Lane* source = idle > 0 ? oldest_queue() : nullptr;
        if (!source) return;
        take_back_waiting(*source, hold);
        std::uint64_t shares = idle + (source->load.stuck > 0 ? 0 : 1);
        std::uint64_t share = (backlog_.size() + shares - 1) / shares;
        for (Lane* lane : lanes_)
            for (std::uint64_t n = is_idle(*lane) ? share : 0; n > 0 && !backlog_.empty(); --n)
                if (!lane->has_room(depth_) || !give(*lane, backlog_.pop(), hold)) break;
        refill(hold);
    }
}

}  // namespace sidestep::detail
