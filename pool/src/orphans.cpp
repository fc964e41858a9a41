#include "orphans.hpp"

#include <poll.h>

#include <new>

#include "spawn/fork_child.hpp"

namespace sidestep::inline v0::detail {
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
