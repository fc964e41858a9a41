#include "nested/relief.hpp"

#include <algorithm>
#include <vector>

#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

std::uint32_t Relief::most_helpers() const {
    return std::min(target_ + grown_, kMaxWorkers - target_);
}

void Relief::set_target(std::uint32_t target, Hold& hold) {
    target_ = target;
    helpers_ = std::min(helpers_, most_helpers());
    share_out(hold);
}

void Relief::set_duty(std::uint32_t lane, int pid, LaneDuty duty, Hold& hold) {
    const std::vector<Lane*>& lanes = rooms_.dispatcher.lanes();
    if (lane >= lanes.size() || lanes[lane]->pid != pid) return;
    lanes[lane]->set_duty(duty, hold);
    share_out(hold);
}

// Those with the lowest numbers work, the others rest.
void Relief::share_out(Hold& hold) {
    const std::vector<Lane*>& lanes = rooms_.dispatcher.lanes();
    const auto there = static_cast<std::uint32_t>(lanes.size());
    active_ = target_ + helpers_ - std::min(target_ + helpers_, there);  // those that are to come
    for (Lane* lane : lanes) {
        if (lane->duty == LaneDuty::waits || lane->number >= target_ + helpers_) continue;
        const bool rests = lane->duty != LaneDuty::helps && active_ >= target_;
        if (lane->duty != LaneDuty::helps)
            lane->set_duty(rests ? LaneDuty::rests : LaneDuty::works, hold);
        if (!rests) ++active_;
    }
    if (is_short() && helpers_ < most_helpers()) {
        const std::uint32_t more = std::min(target_ - active_, most_helpers() - helpers_);
        helpers_ += more;
        active_ += more;
        hold.kick_supervisor();
    }
    rooms_.dispatcher.refill(hold);
    rooms_.dispatcher.rebalance(rooms_.life.ending(), hold);
}

void Relief::grow_if_needed(Hold& hold) {
    const Backlog& backlog = rooms_.dispatcher.backlog();
    while (is_short() && !backlog.empty() && backlog.first()->priority >= kOwnWorker &&
           most_helpers() < kMaxWorkers - target_) {
        ++grown_;
        share_out(hold);
    }
}

void Relief::dismiss(Hold& hold) {
    if (helpers_ == 0) return;
    const std::vector<Lane*>& lanes = rooms_.dispatcher.lanes();
    if (std::any_of(lanes.begin(), lanes.end(), [](const Lane* lane) {
            return lane->duty == LaneDuty::waits || lane->duty == LaneDuty::helps;
        }))
        return;
    helpers_ = grown_ = 0;
    hold.kick_supervisor();
}

}  // namespace sidestep::detail
