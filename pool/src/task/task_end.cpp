#include "task/task_end.hpp"

#include <utility>

namespace sidestep::inline v0::detail {

void TaskEnd::complete(PoolTask* task, Hold& hold) noexcept {
    if (task->block) arguments_.free(std::exchange(task->block, 0));
    if (TokenUse* use = task->tokens()) free_tokens(*use);
    task->place = PoolTask::Place::done;
    ++completed_;
    if (!task->has_value) ++(task->is_cancelled ? cancelled_ : failed_);
    if (TaskSink* sink = task->sink()) {
        task->next = nullptr;
        (sink->last_ ? sink->last_->next : sink->first_) = task;
        sink->last_ = task;
        // The sink's list holds a reference of its own.
        task->add_reference();
    }
    task->mark_done();
    if (task->listeners_) {
        task->listeners_->tell_queues();
        if (!task->listeners_->callbacks.empty())
            callbacks_.post(std::exchange(task->listeners_->callbacks, {}));
    }
    hold.drop_later(task);
}

void TaskEnd::fail(PoolTask* task, std::exception_ptr error, Hold& hold) noexcept {
    task->bytes.fail(std::move(error));
    complete(task, hold);
}

void TaskEnd::cancel(PoolTask* task, const std::exception_ptr& error, Hold& hold) noexcept {
    task->is_cancelled = true;
    fail(task, error, hold);
}

}  // namespace sidestep::detail
