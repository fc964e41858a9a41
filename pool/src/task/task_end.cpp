#include "task/task_end.hpp"

#include <utility>

namespace sidestep::inline v0::detail {

void TaskEnd::complete(PoolTask* task, Hold& hold) noexcept {
    if (task->given.block) arguments_.free(std::exchange(task->given.block, 0));
    if (task->tokens) free_tokens(*task->tokens);
    task->place = PoolTask::Place::done;
    ++completed_;
    if (!task->outcome.has_value) ++(task->outcome.cancelled ? cancelled_ : failed_);
    if (TaskSink* sink = task->sink) {
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
    task->outcome.failure = std::move(error);
    complete(task, hold);
}

void TaskEnd::cancel(PoolTask* task, const std::exception_ptr& error, Hold& hold) noexcept {
    task->outcome.cancelled = true;
    fail(task, error, hold);
}

}  // namespace sidestep::detail
