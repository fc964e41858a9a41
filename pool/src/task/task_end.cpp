#include "task/task_end.hpp"

#include <utility>

namespace sidestep::inline v0::detail {

void TaskEnd::complete(PoolTask* task, Hold& hold) noexcept {
    if (task->argument_block_) arguments_.free(std::exchange(task->argument_block_, 0));
    task->place_ = PoolTask::Place::done;
    ++completed_;
    if (!task->has_value_) ++(task->cancelled_ ? cancelled_ : failed_);
    if (Completions* sink = task->sink_) {
        task->next_ = nullptr;
        (sink->last_ ? sink->last_->next_ : sink->first_) = task;
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
    task->failure_ = std::move(error);
    complete(task, hold);
}

void TaskEnd::cancel(PoolTask* task, const std::exception_ptr& error, Hold& hold) noexcept {
    task->cancelled_ = true;
    fail(task, error, hold);
}

}  // namespace sidestep::detail
