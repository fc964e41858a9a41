// Taking tasks back that have not begun, and giving them to lanes that have nothing to do.
#include <algorithm>
#include <cstdint>

#include "dispatch/dispatcher.hpp"

namespace sidestep::inline v0::detail {
namespace {

// Then nothing overtakes what waits in a lane that is stuck.
constexpr std::uint32_t kLooksToHoldOthers = 5;
constexpr std::uint64_t kAnyTime = ~std::uint64_t(0);

}  // namespace

void Dispatcher::take_back_waiting(Lane& lane, Hold& hold) {
    if (lane.load.in_flight > 0) lane.take_back(lane.load.in_flight - lane.waiting(), hold);
}

void Dispatcher::welcome(Lane& lane, Hold& hold) {
    if (lane.load.in_flight > 0 || backlog_.empty()) return;
    for (Lane* other : lanes())
        if (other->load.works) take_back_waiting(*other, hold);
    if (choice_.has_room(lane)) (void)give(lane, backlog_.pop(), hold);
}

void Dispatcher::look_for_stuck(Hold& hold) {
    Lane* source = choice_.oldest_queue(kLooksToHoldOthers);
    has_stuck_ = source != nullptr;
    const bool none_idle = source && !choice_.find_idle();
    if (none_idle && elsewhere_ && elsewhere_->is_sooner(kAnyTime, task_ns())) {
        take_back_waiting(*source, hold);  // another host has room for it
    } else if (Lane* lane = none_idle ? choice_.find_empty() : nullptr) {
        // Nobody is there for it but one that was taken for stopped, and may be well again.
        take_back_waiting(*source, hold);
        if (!backlog_.empty()) (void)give(*lane, backlog_.pop(), hold);
    }
    if (elsewhere_ && backlog_.empty()) elsewhere_->take_back_stuck(choice_.find_idle() != nullptr);
}

// A lane is about to begin with the first task of the backlog: an older one that waits in another
// lane comes before that, lest both lanes' fronts run for ever.
void Dispatcher::fetch_older(Hold& hold) {
    Lane* source = choice_.oldest_queue(0);
    if (source && TaskList::comes_before(choice_.first_waiting(*source), backlog_.first()))
        take_back_waiting(*source, hold);
}

// An older one waits in a lane that is stuck. It stays there, since its own worker may go on; but a
// lane that has something to do gets no more, until it has nothing, and begins with that one.
bool Dispatcher::overtakes_stuck(const PoolTask& task) {
    Lane* source = choice_.oldest_queue(kLooksToHoldOthers);
    return source && TaskList::comes_before(choice_.first_waiting(*source), &task);
}

// The oldest first: a task may wait for one that was submitted before it, and that would stay
// behind a task that runs for ever.
void Dispatcher::rebalance(bool ending, Hold& hold) {
    for (std::size_t i = 0; i < lanes().size() && backlog_.empty() && !ending; ++i) {
        const std::uint64_t idle = choice_.count_idle();
        Lane* source = idle > 0 ? choice_.oldest_queue(0) : nullptr;
        if (!source) return;
        take_back_waiting(*source, hold);
        std::uint64_t shares = idle + (source->load.stuck > 0 ? 0 : 1);
        std::uint64_t share = (backlog_.size() + shares - 1) / shares;
        for (Lane* lane : lanes())
            for (std::uint64_t n = choice_.is_idle(*lane) ? share : 0; n > 0 && !backlog_.empty();
                 --n)
                if (!choice_.has_room(*lane) || !give(*lane, backlog_.pop(), hold)) break;
        refill(hold);
    }
}

}  // namespace sidestep::detail
