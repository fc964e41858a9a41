// How the first process parts from the others.
#include "hub.hpp"

#include <algorithm>
#include <exception>
#include <new>
#include <utility>

#include "back_off.hpp"

namespace sidestep::inline v0::detail {

bool Hub::stop() noexcept {
    {
        std::lock_guard lock(mutex_);
        stops_ = true;
        posted_one_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
    std::vector<Posted> unsent;  // H2
    {
        std::lock_guard lock(mutex_);
        stopped_ = true;
        unsent.swap(posted_);
    }
    unsent.clear();
    try {
        (void)tell();
        for (;;) {
            Lane lane;
            {
                std::lock_guard lock(mutex_);
                if (lanes_.empty()) break;
                lane = std::move(lanes_.begin()->second);
                lanes_.erase(lanes_.begin());
            }
            tell_gone(std::move(lane), "the program is ending");
        }
        say_goodbye();
    } catch (const std::exception&) {  // there is no memory for that: the job is aborted
        in_order_ = false;
    }
    return in_order_;
}

void Hub::say_goodbye() {
    auto deadline = sys::Clock::now() + kGoodbyeTime;
    std::ptrdiff_t missing = std::count_if(peers_.begin() + 1, peers_.end(),
                                           [this](const Peer& peer) { return hears(peer); });
    BackOff back_off;
    while (missing > 0 && sys::Clock::now() < deadline) {
        if (go_on_parting(missing))
            back_off.reset();
        else
            back_off.wait(BackOff::For::answer);
    }
    if (missing > 0) in_order_ = false;
}

// `missing`: how many have not answered. False: nothing was to be done, or there was no memory.
bool Hub::go_on_parting(std::ptrdiff_t& missing) try {
    const auto farewell = packed(MessageKind::farewell, Nothing{});
    for (int rank = 1; rank < transport_->size(); ++rank) {
        Peer& peer = peers_[static_cast<std::size_t>(rank)];
        if (peer.parts || !hears(peer)) continue;
        transport_->send(rank, framed(MessageKind::goodbye, Nothing{}));
        peer.parts = true;
    }
    bool any = transport_->progress();
    while (auto frame = transport_->receive()) {
        any = true;
        if (frame->head == farewell) --missing;
    }
    return any;
} catch (const std::bad_alloc&) {
    return false;
}

}  // namespace sidestep::detail
