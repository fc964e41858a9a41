// Taking tasks back that have not begun, and giving them to workers that have nothing to do.
#include <algorithm>
#include <cstdint>

#include "pool_core.hpp"

namespace sidestep::inline v0::detail {

// Takes back the tasks from `index` on. False: the worker has begun that one; those behind it are
// taken back. From a ring that cannot be believed nothing is, until its worker is dead.
bool PoolCore::take_back_from(WorkerLink& link, std::uint64_t index) {
    RingParent& ring = link.ring();
    if (link.corrupt) return ring.published() <= index;
    while (ring.published() > index && ring.take_back_last()) {
        PoolTask* task = link.shadow[ring.position(ring.published())];
        take_back_task_fds(link.process.control.get(), task->serial_,
                           task->argument_view().fds->numbers);
        backlog_.push_back(task);
    }
    if (ring.in_flight() == 0 && link.stuck > 0) link.unresponsive = true;
    return ring.published() <= index;
}

// How many tasks wait for the one at the front; with it, if the worker does not even begin it: it
// is still starting, or stopped.
std::uint64_t PoolCore::waiting(WorkerLink& link) {
    RingParent& ring = link.ring();
    if (link.stopping || link.corrupt || ring.in_flight() == 0) return 0;  // to stop is no task
    bool begun = ring.slot(ring.consumed()).state.load(std::memory_order_relaxed) !=
                 SlotState::ready;  // a hint: taking back decides
    return ring.in_flight() - (begun || (link.ready && link.stuck == 0) ? 1 : 0);
}

bool PoolCore::is_idle(WorkerLink& link) const {
    return has_room(link) && link.ready && !link.unresponsive && link.ring().in_flight() == 0;
}

// Of those behind whose front enough waits to wake another worker for it, the one where the oldest
// task waits that any worker may do.
WorkerLink* PoolCore::oldest_queue() {
    WorkerLink* oldest = nullptr;
    std::uint64_t oldest_serial = 0;
    for (WorkerLink& link : links_) {
        if (!link.alive || is_idle(link)) continue;
        std::uint64_t count = waiting(link);
        if (count == 0 || (link.stuck == 0 && count * task_ns_ <= wake_cost_ns_)) continue;
        RingParent& ring = link.ring();
        const PoolTask* first = nullptr;
        for (; count > 0 && !first; --count) {
            first = link.shadow[ring.position(ring.published() - count)];
            if (first && backlog_.list_of(*first) != Backlog::kAnyWorker) first = nullptr;
        }
        if (!first || (oldest && first->serial_ >= oldest_serial)) continue;
        oldest = &link;
        oldest_serial = first->serial_;
    }
    return oldest;
}

// After a resize(): which keys has another worker still a task of?
void PoolCore::look_for_held_keys() {
    backlog_.hold_none();
    for (WorkerLink& link : links_) {
        if (!link.alive) continue;
        RingParent& ring = link.ring();
        for (std::uint64_t i = ring.consumed(); i < ring.published(); ++i) {
            const PoolTask* task = link.shadow[ring.position(i)];
            if (task && task->options_) backlog_.hold_behind(task->options_->key, link.index);
        }
        if (link.eviction) backlog_.hold_behind(link.eviction->key, link.index);
    }
}

// Gives what waits behind others to workers that have nothing to do, the oldest first: a task may
// wait for one that was submitted before it, and that would stay behind a task that runs for ever.
void PoolCore::rebalance(Hold& hold) {
    for (std::size_t i = 0; i < links_.size() && backlog_.empty() && !life_.ending(); ++i) {
        auto idle = static_cast<std::uint64_t>(std::count_if(
            links_.begin(), links_.end(), [&](auto& l) POOL_LOCKED { return is_idle(l); }));
        WorkerLink* source = idle > 0 ? oldest_queue() : nullptr;
        if (!source) return;
        take_back_from(*source, source->ring().published() - waiting(*source));
        std::uint64_t shares = idle + (source->stuck > 0 ? 0 : 1);
        std::uint64_t share = (backlog_.size() + shares - 1) / shares;
        for (WorkerLink& link : links_)
            for (std::uint64_t n = is_idle(link) ? share : 0; n > 0 && !backlog_.empty(); --n)
                if (!has_room(link) || !publish(link, backlog_.pop(), hold)) break;
        refill(hold);
    }
}

}  // namespace sidestep::detail
