// Waiting for results: the first thread that waits leads, that is it looks at the rings by itself,
// spinning and then sleeping on the pool's bell; the others sleep until it has something for them.
// (Leader/followers: Schmidt et al., "Leader/Followers", PLoP 2000.)
#include <algorithm>

#include "pool_core.hpp"
#include "spin.hpp"

namespace sidestep::inline v0::detail {

bool PoolCore::wait(const std::function<bool()>& ready, const Deadline& deadline) {
    if (!owned_here()) return ready();
    Hold hold(mutex_, *this);
    for (;;) {
        if (drain(hold) && (leader_ || followers_ > 0)) hold.wake_waiters();
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
void PoolCore::lead(Hold& hold, const std::function<bool()>& ready, const Deadline& deadline) {
    // Relaxed on the way in: a worker that misses it calls the supervisor once too often.
    control_->attended.store(1, std::memory_order_relaxed);
    hold.unlock();
    auto look = [&] {
        Hold hold_to_look(mutex_, *this);
        if (drain(hold_to_look) && followers_ > 0) changed_.notify_all();
        return ready();
    };
    bool done = false;
    while (!done && !(deadline && sys::Clock::now() >= *deadline)) {
        if (spin_until(spin_.budget(*control_), look)) break;
        EventCount::Key key = control_->bell.prepare(0);
        done = look();
        if (!done) control_->bell.wait(key, deadline);
        control_->bell.cancel(0);
    }
    control_->attended.store(0, std::memory_order_relaxed);
    // SYNC(attended): pairs with Worker::ring_supervisor. What was completed before the fence is
    // found by the drain that follows in wait(); what comes later calls the supervisor.
    std::atomic_thread_fence(std::memory_order_seq_cst);
    hold.lock();
}

void PoolCore::wake_waiters() noexcept {
    changed_.notify_all();
    control_->bell.notify_all();
}

bool PoolCore::wait_done(const PoolTask& task, const Deadline& deadline) {
    return wait([&] { return task.done(); }, deadline);
}

void PoolCore::poll() {
    if (!owned_here()) return;
    Hold hold(mutex_, *this);
    if (drain(hold)) hold.wake_waiters();
}

PoolTaskRef PoolCore::wait_next(Completions& sink) {
    require_owner();
    wait([&] { return sink.first_ != nullptr; }, {});
    Lock lock(mutex_);
    PoolTask* task = sink.first_;
    sink.first_ = task->next_;
    if (!sink.first_) sink.last_ = nullptr;
    task->next_ = nullptr;
    return PoolTaskRef(task);
}

bool PoolCore::add_listener(PoolTask& task, const std::function<void(TaskListeners&)>& add) {
    if (!owned_here()) return false;
    Lock lock(mutex_);
    if (task.done()) return false;
    add(task.listeners());
    return true;
}

// The sink goes away: its tasks complete without it.
void PoolCore::forget(Completions& sink) noexcept {
    if (!owned_here()) return;
    Lock lock(mutex_);
    auto leave = [&](PoolTask* task) {
        if (task && task->sink_ == &sink) task->sink_ = nullptr;
    };
    for (PoolTask* t = backlog_.first(); t; t = TaskList::next(t)) leave(t);
    for (TaskList& list : keyed_)
        for (PoolTask* t = list.first(); t; t = TaskList::next(t)) leave(t);
    for (const auto& [due, task] : delayed_) leave(task);
    for (PoolTask* task : judged_) leave(task);
    for (WorkerLink& link : links_) {
        if (!link.memory) continue;
        for (std::uint64_t i = link.ring().consumed(); i < link.ring().published(); ++i)
            leave(link.shadow[link.ring().position(i)]);
        if (link.eviction) leave(link.eviction->task);
    }
    PoolTask* listed = std::exchange(sink.first_, nullptr);
    lock.unlock();
    while (listed) PoolTaskRef last(std::exchange(listed, listed->next_));  // P2
}

}  // namespace sidestep::detail
