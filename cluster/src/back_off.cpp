#include "back_off.hpp"

#include <sys/prctl.h>

#include <algorithm>
#include <thread>

#include "sync/spin.hpp"

namespace sidestep::inline v0::detail {

void BackOff::sleep_precisely() noexcept { (void)::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); }

void BackOff::reset() {
    if (in_time_) crowd_ = std::max(crowd_ / 2, kFirstCrowd);
    in_time_ = false;
    began_ = {};
    us_ = kFirstUs;
}

unsigned BackOff::next(bool busy, Time now) {
    now_ = now;
    if (began_ == Time{}) began_ = now;
    if (now - began_ < (yields() ? kLooks : kLooksInCrowd)) return 0;
    const unsigned us = std::min(us_, busy ? kLastBusyUs : kLastIdleUs);
    us_ = 2 * us;
    return us;
}

void BackOff::pause() {
    if (!yields()) return cpu_relax();
    std::this_thread::yield();
    came_back(sys::Clock::now());
}

void BackOff::came_back(Time now) {
    in_time_ = now - now_ < kLate;
    if (in_time_) return;
    crowded_until_ = now + crowd_;
    crowd_ = std::min(2 * crowd_, kLastCrowd);
}

void BackOff::wait(bool busy) {
    if (unsigned us = next(busy))
        std::this_thread::sleep_for(std::chrono::microseconds(us));
    else
        pause();
}

}  // namespace sidestep::detail
