#include "back_off.hpp"

#include <sys/prctl.h>

#include <algorithm>
#include <thread>

#include "sync/spin.hpp"

namespace sidestep::inline v0::detail {

void BackOff::sleep_in_time() noexcept { ::prctl(PR_SET_TIMERSLACK, 1UL); }

void BackOff::reset() {
    if (in_time_) ++waits_in_time_;
    in_time_ = false;
    began_ = {};
    us_ = kFirstUs;
}

unsigned BackOff::next(For what, Time now) {
    now_ = now;
    if (began_ == Time{}) began_ = now;
    const auto looks = what == For::anything ? kLooks : kLooksForMore;
    if (now - began_ < (yields() ? looks : kLooksInCrowd)) return 0;
    if (what == For::bytes && now - began_ < kStuck) return kFirstUs;
    const unsigned us = std::min(us_, what == For::anything ? kLastIdleUs : kLastBusyUs);
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
    crowd_ = waits_in_time_ < kManyInTime ? std::clamp(2 * crowd_, kFirstCrowd, kLastCrowd)
                                          : kFirstCrowd;
    waits_in_time_ = 0;
    crowded_until_ = now + crowd_;
}

void BackOff::wait(For what) {
    if (unsigned us = next(what))
        std::this_thread::sleep_for(std::chrono::microseconds(us));
    else
        pause();
}

}  // namespace sidestep::detail
