#include "supervise/housekeeper.hpp"

#include <algorithm>
#include <utility>

#include "task/record_memory.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
constexpr std::chrono::nanoseconds kTrimLook = 20ms;
constexpr std::chrono::nanoseconds kLongestTrimLook = 250ms;  // while nothing is written

bool wants_looks(const RingLane& lane) {
    const RingLane::Condition& is = lane.condition();
    return is.alive && (is.fd_socket_full || is.doubtful || lane.load.in_flight >= 2);
}

}  // namespace

void Housekeeper::tidy(sys::Clock::time_point now, Hold& hold) {
    trim_outputs(now);
    let_go_of_handles(now);
    pool_.relief.grow_if_needed(hold);  // one may have come back from a pause
    pool_.fleet.sleep_if_idle(now, hold);
    if (pool_.pace.begin(now)) look_at_lanes(now, hold);
}

// For tasks that wait behind one that runs long, or for a worker that is stopped.
void Housekeeper::look_at_lanes(sys::Clock::time_point now, Hold& hold) {
    Dispatcher& dispatcher = rooms_.dispatcher;
    bool ending = rooms_.life.ending();
    // Who submits or waits drains, and is not to be held up by this thread.
    bool others_drain = !ending && pool_.pace.has_progressed(rooms_.task_end.completed());
    if (!others_drain && dispatcher.drain(ending, hold)) hold.wake_waiters();
    for (Worker& worker : pool_.workers) worker.lane.look(hold);
    dispatcher.rebalance(ending, hold);
    if (!ending) dispatcher.look_for_stuck(hold);
    dispatcher.refill(hold);
    pool_.fleet.retire_old(now, hold);
    LookPace::Found found{false, false, rooms_.task_end.outstanding() > 0,
                          rooms_.task_end.completed()};
    for (Worker& worker : pool_.workers) {
        found.soon = found.soon || wants_looks(worker.lane);
        // Workers take a queue full of blocks at a time, when they need one or have nothing to do.
        found.owes = found.owes || (worker.lane.memory() && worker.lane.memory()->owes());
    }
    if (pool_.pace.end(found)) rooms_.timers.clear(Timers::Purpose::idle);
    if (!pool_.pace.is_over()) return;
    pool_.relief.dismiss(hold);
    give_back_arguments(hold);
}

// Without the mutex while pages are freed, which takes long.
void Housekeeper::give_back_arguments(Hold& hold) {
    Arena::Free free = rooms_.arguments.take_free();
    hold.unlock();
    if (free.has_pages()) free.discard(pool_.arguments);
    RecordMemory::trim();
    hold.lock();
    rooms_.arguments.put_back(std::move(free));
}

// Workers keep shared objects that come with tasks for the next ones, until we have them no more.
void Housekeeper::let_go_of_handles(sys::Clock::time_point now) {
    Timers& timers = rooms_.timers;
    if (!timers.is_due(Timers::Purpose::handles, now)) return;
    timers.set(Timers::Purpose::handles, now + kLetGo);
    bool any = false;
    for (Worker& worker : pool_.workers) any = worker.lane.let_go_of_handles() || any;
    if (!any) timers.clear(Timers::Purpose::handles);
}

// A task that prints without end takes no more memory than its limit, and what it prints between
// two looks; so does what a task has left running, also while the pool has nothing to do.
void Housekeeper::trim_outputs(sys::Clock::time_point now) {
    Timers& timers = rooms_.timers;
    if (!timers.is_due(Timers::Purpose::output, now)) return;
    timers.set(Timers::Purpose::output, now + kTrimLook);
    bool grows = false;
    for (Worker& worker : pool_.workers)
        if (worker.lane.output) grows = worker.lane.output->trim() || grows;
    trim_pause_ = grows || rooms_.task_end.outstanding() > 0
                      ? kTrimLook
                      : std::min(2 * std::max(trim_pause_, kTrimLook / 2), kLongestTrimLook);
    if (pool_.fleet.all_gone())
        timers.clear(Timers::Purpose::output);
    else
        timers.set(Timers::Purpose::output, now + trim_pause_);
}

}  // namespace sidestep::detail
