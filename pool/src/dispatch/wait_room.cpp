#include "dispatch/wait_room.hpp"

#include <algorithm>
#include <atomic>
#include <utility>

#include "sync/spin.hpp"

namespace sidestep::inline v0::detail {

WaitRoom::WaitRoom(PoolMutex& mutex, Sleepers& sleepers, ControlPage& page, const SpinPolicy& spin,
                   Drain drain)
    : mutex_(mutex), sleepers_(sleepers), page_(page), spin_(spin), drain_(std::move(drain)) {}

bool WaitRoom::wait(const std::function<bool()>& ready, const Deadline& deadline) {
    Hold hold(mutex_, sleepers_);
    for (;;) {
        if (drain_(hold) && !is_empty()) hold.wake_waiters();
        bool is_ready = ready();
        if (is_ready || (deadline && sys::Clock::now() >= *deadline)) {
            // Whoever leaves sees to it that somebody leads, also if it was about to lead itself.
            if (!leader_ && followers_ > 0) changed_.notify_one();
            return is_ready;
        }
        // Others went on meanwhile, and may have had this thread's result: it looks again.
        if (hold.catch_up()) continue;
        if (!leader_) {
            leader_ = true;
            lead(hold, ready, deadline);
            leader_ = false;
        } else {
            ++followers_;
            auto cap = sys::Clock::now() + kLongestSleep;
            changed_.wait_until(mutex_, deadline ? std::min(*deadline, cap) : cap);
            --followers_;
        }
    }
}

// Returns when ready() or at the deadline. Called and left with the mutex held.
void WaitRoom::lead(Hold& hold, const std::function<bool()>& ready, const Deadline& deadline) {
    // Relaxed on the way in: a worker that misses it calls the supervisor once too often.
    page_.attended.store(1, std::memory_order_relaxed);
    hold.unlock();
    auto look = [&] {
        Hold hold_to_look(mutex_, sleepers_);
        if (drain_(hold_to_look) && followers_ > 0) changed_.notify_all();
        return ready();
    };
    bool done = false;
    while (!done && !(deadline && sys::Clock::now() >= *deadline)) {
        if (spin_until(spin_.budget(page_), look)) break;
        EventCount::Key key = page_.bell.prepare(0);
        done = look();
        if (!done) page_.bell.wait(key, deadline);
        page_.bell.cancel(0);
    }
    hold.lock();
    // With the mutex held, as say_who_attends() has it.
    page_.attended.store(0, std::memory_order_relaxed);
    // SYNC(attended): pairs with Worker::ring_supervisor. What was completed before the fence is
    // found by the drain that follows in wait(); what comes later calls the supervisor.
    std::atomic_thread_fence(std::memory_order_seq_cst);
}

void WaitRoom::say_who_attends() noexcept {
    const std::uint32_t attended = leader_ ? 1 : 0;
    if (page_.attended.load(std::memory_order_relaxed) == attended) return;
    page_.attended.store(attended, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);  // SYNC(attended)
}

void WaitRoom::wake_all() noexcept {
    changed_.notify_all();
    page_.bell.notify_all();
}

}  // namespace sidestep::detail
