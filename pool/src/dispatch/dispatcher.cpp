#include "dispatch/dispatcher.hpp"

#include <algorithm>
#include <utility>

namespace sidestep::inline v0::detail {
namespace {

// Work that a lane may hold ahead of its worker, in wake-ups and at least: enough for a worker that
// announces some wake-ups' worth of work at a time and does not run dry meanwhile.
constexpr std::uint64_t kPrefetchWakeUps = 64;
constexpr std::uint64_t kPrefetchNs = 250'000;
constexpr std::uint64_t kSubmitNs = 400;

// How many tasks of this length a lane holds at most: two of long ones, hundreds of tiny ones.
std::uint64_t depth(std::uint64_t task_ns, std::uint64_t wake_ns) {
    std::uint64_t ahead = std::max(kPrefetchNs, kPrefetchWakeUps * wake_ns);
    return std::clamp<std::uint64_t>(ahead / task_ns, 2, kRingCapacity);
}

}  // namespace

Dispatcher::Dispatcher(std::uint32_t lanes, const Machine& machine, LookPace& pace, TokenGate* gate)
    : machine_(machine),
      pace_(pace),
      backlog_(lanes, gate),
      depth_(depth(mean_.ns(), machine.wake_ns)) {}

void Dispatcher::place(PoolTask* task, Hold& hold) {
    if (task->tokens()) return place_late(task, hold);  // it may have to wait for them
    if (elsewhere_ && elsewhere_->take_by_key(*task)) return pace_.want(false, hold);
    backlog_.note_priority(*task);
    if (backlog_.has_priorities() && overtake(*task, hold)) {
        backlog_.push(task);
        return refill(hold);
    }
    Backlog::ListNumber list = backlog_.list_of(*task);
    Lane* lane = nullptr;
    if (!backlog_.empty(list))
        lane = nullptr;  // it waits behind those
    else if (list == Backlog::kAnyWorker) {
        lane = pick();
        if (elsewhere_ && goes_elsewhere(task, lane, hold)) return;
    } else if (lanes_[list]->has_room(depth_) && !is_held(list))
        lane = lanes_[list];
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

// Takes back what was handed out, has not begun, and is less important. False: there is none.
bool Dispatcher::overtake(const PoolTask& task, Hold& hold) {
    bool any = false;
    for (Lane* lane : lanes_) {
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
        while (!backlog_.empty(i) && lanes_[i]->has_room(depth_) && !backlog_.is_held(i))
            if (PoolTask* task = backlog_.pop(i); !elsewhere_ || !elsewhere_->take_by_key(*task))
                (void)give(*lanes_[i], task, hold);
    while (!backlog_.empty()) {
        Lane* lane = pick();
        if (elsewhere_ && goes_elsewhere(nullptr, lane, hold)) continue;
        if (!lane) return;
        (void)give(*lane, backlog_.pop(), hold);  // or another lane takes it
    }
}

// True: the task (null: the first one that waits) has begun a way that ends sooner than that lane
// (null: any) would begin it.
bool Dispatcher::goes_elsewhere(PoolTask* task, const Lane* lane, Hold& hold) {
    if (!elsewhere_->is_sooner(lane ? cost(*lane) : ~std::uint64_t(0), mean_.ns())) return false;
    pace_.want(false, hold);  // it may get stuck there, and the pool is not idle
    if (task) return elsewhere_->take(*task, mean_.ns());
    task = backlog_.pop();
    if (elsewhere_->take(*task, mean_.ns())) return true;
    backlog_.push_back(task);
    return false;
}

void Dispatcher::flush(Hold& hold) {
    gathered_ = false;
    for (Lane* lane : lanes_)
        if (std::exchange(lane->load.gathers, false)) lane->flush(hold);
}

bool Dispatcher::drain(bool ending, Hold& hold) {
    bool any = false;
    for (Lane* lane : lanes_) any = lane->drain(hold) || any;
    if (any) {
        refill(hold);
        rebalance(ending, hold);
    }
    return any;
}

// --- choosing ----------------------------------------------------------------------------------

void Dispatcher::learn(std::uint64_t ns) {
    if (mean_.learn(ns)) depth_ = depth(mean_.ns(), machine_.wake_ns);
}

// Nanoseconds until a new task would begin there.
std::uint64_t Dispatcher::cost(const Lane& lane) const {
    const LaneLoad& load = lane.load;
    if (load.in_flight == 0 && load.start_ns == 0)
        return load.doorbell && load.doorbell->has_sleepers() ? machine_.wake_ns : 0;
    return load.in_flight * mean_.ns() + load.start_ns;
}

// Another worker would not help: tasks are shorter than it takes to submit one, and with the
// threads that submit, those that are awake have all CPUs.
bool Dispatcher::crowded() const {
    return mean_.ns() < kSubmitNs && machine_.spin.awake(machine_.page) + 1 >= machine_.spin.cpus;
}

// The lane that would begin a new task soonest, or null if all hold enough. The one that was used
// last is kept while its queue is shorter than a wake-up: a worker that runs is worth two that must
// be woken.
Lane* Dispatcher::pick() {
    Lane& last = *lanes_[last_used_];
    if (last.has_room(depth_) && last.load.works && (cost(last) < machine_.wake_ns || crowded()))
        return &last;
    // It has as much as it should, and runs: what comes waits, rather than wake another one.
    if (last.load.works && last.load.stuck == 0 && last.load.in_flight >= depth_ && crowded())
        return nullptr;
    // One that is still starting gets nothing while others work: it would begin with that, though
    // older tasks wait behind those that run now.
    bool works = std::any_of(lanes_.begin(), lanes_.end(),
                             [](const Lane* lane) { return lane->load.works; });
    Lane* best = nullptr;
    std::uint64_t best_cost = 0;
    for (Lane* lane : lanes_) {
        if (!lane->has_room(depth_) || lane->load.works != works) continue;
        std::uint64_t c = cost(*lane);
        if (best && c >= best_cost) continue;
        best = lane;
        best_cost = c;
    }
    if (best) last_used_ = best->number;
    return best;
}

// What waits for that lane alone has to wait for another one, too.
bool Dispatcher::is_held(std::uint32_t lane) {
    if (backlog_.keys_moved()) look_for_held_keys();
    return backlog_.is_held(lane);
}

// After a resize(): which keys has another worker still a task of?
void Dispatcher::look_for_held_keys() {
    backlog_.hold_none();
    for (const Lane* lane : lanes_) {
        for (std::uint32_t i = 0; i < lane->load.in_flight; ++i) {
            const PoolTask* task = lane->task_at(i);
            if (task && task->options) backlog_.hold_behind(task->options->key, lane->number);
        }
        if (lane->stopping) backlog_.hold_behind(lane->stopping->key, lane->number);
    }
}

}  // namespace sidestep::detail
