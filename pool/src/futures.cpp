#include <sidestep/futures.hpp>

#include <fmt/format.h>

#include <algorithm>

namespace sidestep::inline v0::detail {

void TaskWaiter::add(const TaskRef& task) {
    if (!task) throw_empty_future();
    std::size_t index = tasks_.size();
    tasks_.emplace_back();
    if (!known_.insert(task.get()).second) return;
    tasks_[index] = task;
    ++left_;
    if (!task->listen(queue_, index)) queue_->add(index);
}

TaskWaiter::~TaskWaiter() {
    for (const TaskRef& task : tasks_)
        if (task) task->forget(queue_);
}

bool TaskWaiter::wait(const Deadline& deadline) {
    auto first = std::find_if(tasks_.begin(), tasks_.end(), [](const TaskRef& t) { return !!t; });
    bool together = (*first)->owner() && std::all_of(first, tasks_.end(), [&](const TaskRef& t) {
                        return !t || t->owner() == (*first)->owner();
                    });
    if (!together) return queue_->wait(deadline);
    return (*first)->wait_until([this] { return !queue_->empty(); }, deadline);
}

std::optional<std::size_t> TaskWaiter::next(const Deadline& deadline) {
    if (left_ == 0) return {};
    if (queue_->empty() && !wait(deadline)) return {};
    std::optional<std::size_t> index = queue_->pop();
    if (!index) return {};
    tasks_[*index] = {};
    --left_;
    return index;
}

std::vector<bool> wait_for_tasks(const std::vector<TaskRef>& tasks, ReturnWhen when,
                                 const Deadline& deadline) {
    TaskWaiter waiter;
    for (const TaskRef& task : tasks) waiter.add(task);
    while (auto index = waiter.next(deadline)) {
        if (when == ReturnWhen::first_completed) break;
        const TaskState& task = *tasks[*index];
        if (when == ReturnWhen::first_exception && !task.cancelled() && task.error()) break;
    }
    std::vector<bool> done;
    for (const TaskRef& task : tasks) done.push_back(task->poll());
    return done;
}

void throw_unfinished(std::size_t left, std::size_t all) {
    throw TimeoutError(fmt::format("{} (of {}) futures unfinished; their tasks go on", left, all));
}

}  // namespace sidestep::detail
