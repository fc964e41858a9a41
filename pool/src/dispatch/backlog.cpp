#include "dispatch/backlog.hpp"

namespace sidestep::inline v0::detail {

void Backlog::push(PoolTask* task) {
    task->place = PoolTask::Place::backlog;
    of(list_of(*task)).push(task);
}

void Backlog::push_back(PoolTask* task) {
    task->place = PoolTask::Place::backlog;
    of(list_of(*task)).push_old(task);
}

void Backlog::push_late(PoolTask* task) {
    if (of(list_of(*task)).would_be_last(task))
        push(task);
    else
        push_back(task);
}

void Backlog::remove(PoolTask& task) {
    if (task.place == PoolTask::Place::delayed)
        std::erase_if(paused_, [&](const auto& entry) { return entry.second == &task; });
    else
        of(list_of(task)).remove(&task);
}

PoolTask* Backlog::pop_anything() {
    if (!any_.empty()) return any_.pop();
    for (TaskList& list : keyed_)
        if (!list.empty()) return list.pop();
    return pop_rested(sys::Clock::time_point::max());
}

void Backlog::pause(PoolTask* task, sys::Clock::time_point end) {
    paused_.emplace(end, task);
    task->place = PoolTask::Place::delayed;
}

sys::Deadline Backlog::first_pause_ends() const {
    if (paused_.empty()) return {};
    return paused_.begin()->first;
}

PoolTask* Backlog::pop_rested(sys::Clock::time_point now) {
    if (paused_.empty() || paused_.begin()->first > now) return nullptr;
    PoolTask* task = paused_.begin()->second;
    paused_.erase(paused_.begin());
    return task;
}

void Backlog::resize(std::uint32_t workers) {
    held_.reserve(workers);
    keyed_.reserve(workers);  // from here on nothing throws
    TaskList keyed;
    for (TaskList& list : keyed_)
        while (!list.empty()) keyed.push(list.pop());
    keyed_.resize(workers);
    held_.assign(workers, false);
    keys_moved_ = true;
    while (!keyed.empty()) push_back(keyed.pop());
}

void Backlog::hold_none() {
    held_.assign(held_.size(), false);
    keys_moved_ = false;
}

void Backlog::hold_behind(std::uint64_t key, std::uint32_t worker) {
    if (key == 0 || key % held_.size() == worker) return;
    held_[key % held_.size()] = keys_moved_ = true;
}

}  // namespace sidestep::detail
