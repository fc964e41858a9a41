#include "dispatch/dispatcher.hpp"

#include <algorithm>
#include <utility>

namespace sidestep::inline v0::detail {

Dispatcher::Dispatcher(std::uint32_t lanes, const Machine& machine, LookPace& pace, TokenGate* gate)
    : pace_(pace), backlog_(lanes, gate), choice_(machine, backlog_) {}

void Dispatcher::place(PoolTask* task, Hold& hold) {
    if (task->tokens()) return place_late(task, hold);  // it may have to wait for them
    if (elsewhere_ && elsewhere_->take_by_key(*task)) return pace_.want(false, hold);
    backlog_.note_priority(*task);
    const bool overtook = backlog_.has_priorities() && overtake(*task, hold);
    // What waits where nothing moves may be for the lane that is free.
    if (overtook || has_stuck_) {
        backlog_.push(task);
        return refill(hold);
    }
    Backlog::ListNumber list = backlog_.list_of(*task);
    Lane* lane = nullptr;
    if (!backlog_.empty(list))
        lane = nullptr;  // it waits behind those
    else if (list == Backlog::kAnyWorker) {
        lane = choice_.pick(*task);
        if (elsewhere_ && goes_elsewhere(task, lane, hold)) return;
    } else if (choice_.has_room(*lanes()[list]) && !is_held(list))
        lane = lanes()[list];
    if (!lane) return backlog_.push(task);
    (void)give(*lane, task, hold);
    if (gathered_) flush(hold);
}

void Dispatcher::place_late(PoolTask* task, Hold& hold) {
    if (elsewhere_ && elsewhere_->take_by_key(*task)) return;
    backlog_.note_priority(*task);
    if (backlog_.has_priorities()) overtake(*task, hold);
    backlog_.push_late(task);
    refill(hold);
}

void Dispatcher::wait_again(PoolTask* task, Hold& hold) {
    if (backlog_.has_priorities()) overtake(*task, hold);
    backlog_.push_back(task);
}

void Dispatcher::handed_back(PoolTask& task) noexcept {
    choice_.note_handed_back(task);
    backlog_.push_back(&task);
}

// Takes back what was handed out, has not begun, and is less important. False: there is none.
bool Dispatcher::overtake(const PoolTask& task, Hold& hold) {
    bool any = false;
    for (Lane* lane : lanes()) {
        while (std::uint32_t count = lane->load.in_flight) {
            const PoolTask* last = lane->task_at(count - 1);
            if (!last || last->priority >= task.priority ||
                backlog_.list_of(*last) != backlog_.list_of(task))
                break;
            lane->take_back(count - 1, hold);
            if (lane->load.in_flight == count) break;
            any = true;
        }
    }
    return any;
}

// False: not now, so it waits again, and the lane gets nothing for a while.
bool Dispatcher::give(Lane& lane, PoolTask* task, Hold& hold) {
    task->place = PoolTask::Place::lane;
    task->lane = &lane;
    if (!lane.start(*task, hold)) {
        backlog_.push_back(task);
        pace_.want(true, hold);
        return false;
    }
    if (task->place != PoolTask::Place::lane) return true;  // done already
    gathered_ = gathered_ || lane.load.gathers;
    // Something may get stuck: behind a long task, or in front of a stopped worker.
    pace_.want(lane.load.in_flight >= 2, hold);
    return true;
}

void Dispatcher::refill(Hold& hold) {
    fill(hold);
    if (gathered_) flush(hold);
}

void Dispatcher::fill(Hold& hold) {
    if (backlog_.keys_moved()) look_for_held_keys();
    for (std::uint32_t i = 0; i < backlog_.workers(); ++i)
        while (!backlog_.empty(i) && choice_.has_room(*lanes()[i]) && !backlog_.is_held(i))
            if (PoolTask* task = backlog_.pop(i); !elsewhere_ || !elsewhere_->take_by_key(*task))
                (void)give(*lanes()[i], task, hold);
    while (!backlog_.empty()) {
        const PoolTask& first = *backlog_.first();
        Lane* lane = choice_.pick(first);
        if (elsewhere_ && goes_elsewhere(nullptr, lane, hold)) continue;
        if (lane && lane->load.in_flight > 0 && has_stuck_ && overtakes_stuck(first))
            lane = choice_.find_idle();
        if (!lane) return;
        if (choice_.is_idle(*lane)) fetch_older(hold);
        (void)give(*lane, backlog_.pop(), hold);  // or another lane takes it
    }
    choice_.all_given();
}

// True: the task (null: the first one that waits) has begun a way that ends sooner than that lane
// (null: any) would begin it.
bool Dispatcher::goes_elsewhere(PoolTask* task, const Lane* lane, Hold& hold) {
    if (!elsewhere_->is_sooner(lane ? choice_.cost(*lane) : ~std::uint64_t(0), task_ns()))
        return false;
    pace_.want(false, hold);  // it may get stuck there, and the pool is not idle
    if (task) return elsewhere_->take(*task, task_ns());
    task = backlog_.pop();
    if (elsewhere_->take(*task, task_ns())) return true;
    backlog_.push_back(task);
    return false;
}

void Dispatcher::flush(Hold& hold) {
    gathered_ = false;
    for (Lane* lane : lanes())
        if (std::exchange(lane->load.gathers, false)) lane->flush(hold);
}

bool Dispatcher::drain(bool ending, Hold& hold) {
    bool any = false;
    for (Lane* lane : lanes()) any = lane->drain(hold) || any;
    if (any) {
        refill(hold);
        rebalance(ending, hold);
    }
    return any;
}

// --- keys --------------------------------------------------------------------------------------

// What waits for that lane alone has to wait for another one, too.
bool Dispatcher::is_held(std::uint32_t lane) {
    if (backlog_.keys_moved()) look_for_held_keys();
    return backlog_.is_held(lane);
}

// After a resize(): which keys has another worker still a task of?
void Dispatcher::look_for_held_keys() {
    backlog_.hold_none();
    for (const Lane* lane : lanes()) {
        for (std::uint32_t i = 0; i < lane->load.in_flight; ++i) {
            const PoolTask* task = lane->task_at(i);
            if (task && task->options) backlog_.hold_behind(task->options->key, lane->number);
        }
        if (lane->stopping) backlog_.hold_behind(lane->stopping->key, lane->number);
    }
}

}  // namespace sidestep::detail
