#include "dispatch/backlog.hpp"

#include <algorithm>

namespace sidestep::inline v0::detail {

void Backlog::push(PoolTask* task) {
    task->place = PoolTask::Place::backlog;
    if (task->tokens()) return wait_at_gate(*task);
    of(list_of(*task)).push(task);
}

void Backlog::push_back(PoolTask* task) {
    task->place = PoolTask::Place::backlog;
    if (task->tokens()) return wait_at_gate(*task);
    of(list_of(*task)).push_old(task);
}

void Backlog::push_late(PoolTask* task) {
    if (task->tokens() || of(list_of(*task)).would_be_last(task))
        push(task);
    else
        push_back(task);
}

// In the order of its numbers and priorities, wherever it comes from.
void Backlog::wait_at_gate(PoolTask& task) noexcept {
    TokenUse& use = *task.tokens();
    gate_->give_back(use);
    use.task = &task;
    use.priority = task.priority;
    use.number = task.serial;
    use.worker = list_of(task);
    gate_->wait(use);
}

PoolTask* Backlog::pop_either(ListNumber list) {
    TokenUse* gated = gate_->first(list);
    const PoolTask* other = of(list).first();
    if (!gated || (other && !gated->comes_before(other->priority, other->serial)))
        return of(list).pop();
    gate_->take(*gated);
    return gated->task;
}

const PoolTask* Backlog::first(ListNumber list) const {
    const TokenUse* gated = has_gated() ? gate_->first(list) : nullptr;
    const PoolTask* other = of(list).first();
    if (!gated || (other && !gated->comes_before(other->priority, other->serial))) return other;
    return gated->task;
}

void Backlog::remove(PoolTask& task) {
    if (task.place == PoolTask::Place::delayed)
        std::erase_if(paused_, [&](const auto& entry) { return entry.second == &task; });
    else if (task.tokens())
        gate_->forget(*task.tokens());
    else
        of(list_of(task)).remove(&task);
}

PoolTask* Backlog::pop_anything() {
    if (!any_.empty()) return any_.pop();
    for (TaskList& list : keyed_)
        if (!list.empty()) return list.pop();
    if (has_gated()) {
        TokenUse* gated = gate_->any();
        gate_->forget(*gated);
        return gated->task;
    }
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
    if (gate_) gate_->for_each([this](TokenUse& use) { use.worker = list_of(*use.task); });
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
