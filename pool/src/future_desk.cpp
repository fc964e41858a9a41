#include "future_desk.hpp"

#include <algorithm>
#include <utility>

namespace sidestep::inline v0::detail {

bool FutureDesk::wait(const std::function<bool()>& ready, const Deadline& deadline) {
    return pool_.owner.is_here() ? waiters_.wait(ready, deadline) : ready();
}

void FutureDesk::drain(Hold& hold) {
    if (rooms_.dispatcher.drain(rooms_.life.ending(), hold)) hold.wake_waiters();
}

void FutureDesk::poll() {
    if (!pool_.owner.is_here()) return;
    Hold hold(rooms_.mutex, rooms_.sleepers);
    drain(hold);
}

void FutureDesk::look_again() {
    if (!pool_.owner.is_here()) return;
    Hold hold(rooms_.mutex, rooms_.sleepers);
    hold.wake_waiters();
}

bool FutureDesk::running(PoolTask& task) {
    if (!pool_.owner.is_here()) return false;
    Hold hold(rooms_.mutex, rooms_.sleepers);
    drain(hold);
    if (task.place == PoolTask::Place::elsewhere) return true;
    return task.place == PoolTask::Place::lane && task.lane->front_runs() &&
           task.lane->task_at(0) == &task;
}

std::uint64_t FutureDesk::finished_items(const PoolTask& task) {
    if (!pool_.owner.is_here()) return 0;
    PoolLock lock(rooms_.mutex);
    if (task.place != PoolTask::Place::lane || task.lane->task_at(0) != &task) return 0;
    LaneFront front = task.lane->look_at_front(sys::Clock::now());
    std::uint64_t last = task.items().end - task.items().begin - 1;
    return front.runs ? std::min(front.item, last) : 0;
}

bool FutureDesk::cancel(PoolTask& task, bool running_too) {
    if (!pool_.owner.is_here()) return false;
    Hold hold(rooms_.mutex, rooms_.sleepers);
    drain(hold);
    return pool_.stopper.cancel(task, running_too, hold);
}

bool FutureDesk::add_listener(PoolTask& task, const std::function<void(TaskListeners&)>& add) {
    if (!pool_.owner.is_here()) return false;
    PoolLock lock(rooms_.mutex);
    if (task.done()) return false;
    add(task.listeners());
    return true;
}

PoolTaskRef FutureDesk::take_next(PoolTask*& first, PoolTask*& last) {
    pool_.owner.require_here();
    PoolLock lock(rooms_.mutex);
    PoolTask* task = first;
    if (!task) return {};
    first = task->next;
    if (!first) last = nullptr;
    task->next = nullptr;
    return PoolTaskRef(task);
}

void FutureDesk::forget(const TaskSink& sink, PoolTask*& first) noexcept {
    if (!pool_.owner.is_here()) return;
    PoolLock lock(rooms_.mutex);
    auto leave = [&](PoolTask* task) {
        if (task->sink() == &sink) task->more->sink = nullptr;
    };
    rooms_.dispatcher.for_each_task(leave);
    for (PoolTask* task : pool_.retries.asked()) leave(task);
    PoolTask* listed = std::exchange(first, nullptr);
    lock.unlock();
    while (listed) PoolTaskRef reference(std::exchange(listed, listed->next));
}

}  // namespace sidestep::detail
