#include "task/hold.hpp"

#include <utility>

#include <sidestep/detail/pool_task.hpp>

namespace sidestep::inline v0::detail {

bool Hold::catch_up() {
    if (!has_more()) return false;
    unlock();
    lock();
    return true;
}

// Sleepers first: the last reference to a task may be the last one to the pool.
void Hold::follow_up() noexcept {
    if (std::exchange(wakes_, false)) sleepers_->wake_waiters();
    if (std::exchange(kicks_, false)) sleepers_->kick_supervisor();
    while (first_) {
        PoolTaskRef last(std::exchange(first_, first_->previous));
        // Whoever has a future keeps the task, which needs its arguments' descriptors no more. To
        // close and unmap them takes long.
        if (!last->has_descriptors()) continue;
        TaskDescriptors gone;
        gone.swap(last->more->descriptors);
    }
    objects_.clear();
}

void Hold::drop_later(PoolTask* task) noexcept {
    task->previous = first_;
    first_ = task;
}

void Hold::drop_later(Leftover object) noexcept {
    objects_.splice_after(objects_.before_begin(), object);
}

}  // namespace sidestep::detail
