#include "orphans.hpp"

#include <poll.h>
#include <sys/wait.h>

#include <cerrno>
#include <new>

namespace sidestep::inline v0::detail {
namespace {

// True: this process has no children in that group (any more).
bool reap_group(int group) noexcept {
    for (;;) {
        siginfo_t ended = {};
        int result;
        do result = ::waitid(P_PGID, static_cast<id_t>(group), &ended, WEXITED | WNOHANG | WNOWAIT);
        while (result < 0 && errno == EINTR);
        if (result < 0) return true;  // ECHILD
        if (ended.si_pid == 0) return false;
        // The number is free again and somebody's, whose status is not for us.
        if (ended.si_pid == group) return true;
        (void)::waitid(P_PID, static_cast<id_t>(ended.si_pid), &ended, WEXITED | WNOHANG);
    }
}

}  // namespace

void Orphans::add(int group) noexcept {
    if (reap_group(group)) return;
    try {
        groups_.push_back(group);
    } catch (const std::bad_alloc&) {  // its zombies stay, until this process ends
    }
}

void Orphans::reap() noexcept { std::erase_if(groups_, reap_group); }

void Orphans::reap_until(sys::Clock::time_point deadline) noexcept {
    constexpr int kPauseMs = 2;
    for (reap(); !groups_.empty() && sys::Clock::now() < deadline; reap())
        (void)::poll(nullptr, 0, kPauseMs);
}

}  // namespace sidestep::detail
