// Who asks for results, and how what became of a task gets to them.
#include <utility>

#include "pool_core.hpp"

namespace sidestep::inline v0::detail {

bool PoolCore::wait(const std::function<bool()>& ready, const Deadline& deadline) {
    return owned_here() ? wait_room_.wait(ready, deadline) : ready();
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
    sink.first_ = task->next;
    if (!sink.first_) sink.last_ = nullptr;
    task->next = nullptr;
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
        if (task->sink == &sink) task->sink = nullptr;
    };
    tasks_.dispatcher.for_each_task(leave);
    for (PoolTask* task : policies_.retries.asked()) leave(task);
    PoolTask* listed = std::exchange(sink.first_, nullptr);
    lock.unlock();
    while (listed) PoolTaskRef last(std::exchange(listed, listed->next));  // P2
}

}  // namespace sidestep::detail
