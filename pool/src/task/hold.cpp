#include "task/hold.hpp"

#include <cstddef>
#include <new>
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

// If there is no memory to remember the object, it is never dropped: that would be with the mutex.
void Hold::drop_later(std::shared_ptr<const void> object) noexcept {
    try {
        objects_.push_back(std::move(object));
    } catch (const std::bad_alloc&) {
        using Object = std::shared_ptr<const void>;
        alignas(Object) std::byte place[sizeof(Object)];
        new (place) Object(std::move(object));
    }
}

}  // namespace sidestep::detail
