#include "dispatch/lane_choice.hpp"

#include <algorithm>

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

LaneChoice::LaneChoice(const Machine& machine, const Backlog& backlog)
    : machine_(machine), backlog_(backlog), depth_(depth(mean_.ns(), machine.wake_ns)) {}

void LaneChoice::learn(std::uint64_t ns) {
    if (mean_.learn(ns)) depth_ = depth(mean_.ns(), machine_.wake_ns);
}

std::uint64_t LaneChoice::count_idle() const {
    return static_cast<std::uint64_t>(
        std::count_if(lanes_.begin(), lanes_.end(), [&](const Lane* l) { return is_idle(*l); }));
}

Lane* LaneChoice::find_idle() const {
    for (Lane* lane : lanes_)
        if (is_idle(*lane)) return lane;
    return nullptr;
}

Lane* LaneChoice::find_empty() const {
    for (Lane* lane : lanes_)
        if (lane->load.in_flight == 0 && lane->load.works && has_room(*lane)) return lane;
    return nullptr;
}

std::uint64_t LaneChoice::cost(const Lane& lane) const {
    const LaneLoad& load = lane.load;
    if (load.in_flight == 0 && load.start_ns == 0)
        return load.doorbell && load.doorbell->has_sleepers() ? machine_.wake_ns : 0;
    return load.in_flight * mean_.ns() + load.start_ns;
}

// Another worker would not help: tasks are shorter than it takes to submit one, and with the
// threads that submit, those that are awake have all CPUs.
bool LaneChoice::crowded() const {
    return mean_.ns() < kSubmitNs && machine_.spin.awake(machine_.page) + 1 >= machine_.spin.cpus;
}

// The one that was used last is kept while its queue is shorter than a wake-up: a worker that runs
// is worth two that must be woken.
Lane* LaneChoice::pick(const PoolTask& task) {
    Lane& last = last_used();
    if (takes(last, task) && last.load.works && (cost(last) < machine_.wake_ns || crowded()))
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
        if (lane->load.works != works || !takes(*lane, task)) continue;
        std::uint64_t c = cost(*lane);
        if (best && c >= best_cost) continue;
        best = lane;
        best_cost = c;
    }
    if (best) last_used_ = best->number;
    return best;
}

// --- order -------------------------------------------------------------------------------------

void LaneChoice::note_handed_back(const PoolTask& task) {
    handed_back_ = std::max(handed_back_, task.serial + 1);
}

// The lane would begin the task after younger ones, which may run for ever. (What is tried again,
// or has waited for tokens or for other tasks, is held to it only while something that was handed
// back waits: such tasks are often older than all in the lanes, which would run dry for each.)
bool LaneChoice::holds_younger(const Lane& lane, const PoolTask& task) const {
    if (lane.load.in_flight == 0) return false;
    const PoolTask* last = lane.task_at(lane.load.in_flight - 1);
    return last && last->priority == task.priority && last->serial > task.serial;
}

const PoolTask* LaneChoice::first_waiting(Lane& lane) const {
    for (std::uint32_t count = lane.waiting(); count > 0; --count) {
        const PoolTask* task = lane.task_at(lane.load.in_flight - count);
        if (task && backlog_.list_of(*task) == Backlog::kAnyWorker) return task;
    }
    return nullptr;
}

Lane* LaneChoice::oldest_queue(std::uint32_t looks) const {
    Lane* oldest = nullptr;
    std::uint64_t oldest_serial = 0;
    for (Lane* lane : lanes_) {
        const LaneLoad& load = lane->load;
        if (load.in_flight == 0 || load.stuck < looks) continue;
        if (load.stuck == 0 && ((load.in_flight - 1) * mean_.ns() <= machine_.wake_ns || crowded()))
            continue;
        const PoolTask* first = first_waiting(*lane);
        if (!first || (oldest && first->serial >= oldest_serial)) continue;
        oldest = lane;
        oldest_serial = first->serial;
    }
    return oldest;
}

}  // namespace sidestep::detail
