#include "supervise/fleet.hpp"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "process_memory.hpp"
#include "spare_errors.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
constexpr auto kGrowthLook = 20ms;     // how often it is looked how much workers have grown
constexpr auto kShortestPause = 5ms;   // between attempts to start a worker, while there is none of
constexpr auto kLongestPause = 250ms;  //   something that it needs

}  // namespace

Fleet::Fleet(const PoolRooms& rooms, const Pool& pool)
    : rooms_(rooms), pool_(pool), target_(*rooms.options.processes) {
    for (std::uint32_t i = 0; i < target(); ++i) add_worker();
    followed_ = target();
}

// Strong guarantee.
void Fleet::add_worker() {
    auto number = static_cast<std::uint32_t>(pool_.workers.size());
    Worker& worker =
        pool_.workers.emplace_back(number, pool_.events, rooms_.timers, rooms_.options);
    try {
        rooms_.dispatcher.add(worker.lane);
    } catch (...) {
        pool_.workers.pop_back();
        throw;
    }
    pool_.page.set_parked(number, true);
}

// --- starting ----------------------------------------------------------------------------------

void Fleet::start() {
    for (Worker& worker : own_workers()) launch(worker);
}

void Fleet::discard_all() noexcept {
    for (Worker& worker : own_workers())
        if (worker.lane.condition().alive) discard(std::move(worker.lane.process.launched));
}

void Fleet::launch(Worker& worker) {
    RingLane::Parts parts = pool_.starter.start(worker.lane.number);
    try {
        watch(worker, parts.process);
    } catch (...) {
        unwatch(parts.process);
        discard(std::move(parts.process.launched));
        throw;
    }
    Hold hold(rooms_.mutex, rooms_.sleepers);
    adopt(worker, std::move(parts), hold);
}

void Fleet::watch(Worker& worker, const WorkerProcess& process) {
    pool_.loop.add(process.launched.pidfd.get(),
                   [this, &worker]() SUPERVISOR_ONLY { pool_.deaths.look(worker); });
    pool_.loop.add(process.control(),
                   [this, &worker]() SUPERVISOR_ONLY { pool_.talk.look(worker); });
    // The rings are looked at in each round.
    pool_.loop.add(
        process.bell.get(), [] {}, EventLoop::Tells::of_each_event);
}

void Fleet::unwatch(const WorkerProcess& process) noexcept {
    for (int fd : {process.launched.pidfd.get(), process.control(), process.bell.get()})
        pool_.loop.remove(fd);
}

// Throws nothing: the worker is there.
void Fleet::adopt(Worker& worker, RingLane::Parts parts, Hold& hold) {
    RingLane& lane = worker.lane;
    lane.open(std::move(parts));
    lane.memory_look = {};
    worker.started_at = sys::Clock::now();
    worker.private_memory.reset();
    worker.boot_failure.clear();
    shortage_since_.reset();
    nobody_since_.reset();
    rooms_.insight.note_worker_started(lane.number, lane.pid);
    // The pool may have begun to end while the worker was being started, without the mutex.
    if (rooms_.life.ending())
        lane.signal(SIGKILL, hold);
    else if (rooms_.life.sealed())
        ask_all_to_leave(hold);
    else
        rooms_.dispatcher.refill(hold);
}

// A shortage may pass: it is tried again for start_patience, if nobody works meanwhile, else for
// ever. Whatever else keeps a worker from being started counts as its death.
void Fleet::note_failed_launch(Worker& worker, const std::exception_ptr& error) noexcept {
    Hold hold(rooms_.mutex, rooms_.sleepers);
    const char* what = shortage(error);
    auto now = sys::Clock::now();
    if (what) {
        if (!shortage_since_) shortage_since_ = now;
        auto pause = (now - *shortage_since_) / 4;
        worker.respawn_at =
            now + std::clamp<std::chrono::nanoseconds>(pause, kShortestPause, kLongestPause);
    } else {
        pool_.deaths.note_death_without_progress(worker);
    }
    // Those that wait for nested tasks wait for this one, too.
    if (std::any_of(pool_.workers.begin(), pool_.workers.end(), [](const Worker& each) {
            return each.lane.condition().alive && each.lane.duty != LaneDuty::waits;
        }))
        nobody_since_.reset();
    else if (!nobody_since_)
        nobody_since_ = now;
    std::chrono::nanoseconds patience = rooms_.options.start_patience;
    bool over = what ? nobody_since_ && now >= saturating_add(*nobody_since_, patience)
                     : pool_.deaths.is_crash_loop();
    if (!over || rooms_.life.ending()) return;
    auto alone = nobody_since_ ? now - *nobody_since_ : sys::Clock::duration(0);
    pool_.end.break_down(
        broken_pool([&]() -> std::string {
            if (!what)
                return fmt::format("the pool is broken: no worker can be started: {}",
                                   text_of(error));
            return fmt::format(
                "the pool is broken: no worker could be started for {} ms "
                "(PoolOptions::start_patience): {}: {}",
                std::chrono::duration_cast<std::chrono::milliseconds>(alone).count(), what,
                text_of(error));
        }),
        hold);
    hold.wake_waiters();
}

// It is to run, if it does not.
bool Fleet::is_wanted(const Worker& worker) const {
    return !rooms_.life.ending() && !rooms_.life.sealed() && !worker.lane.condition().dormant &&
           !worker.surplus;
}

void Fleet::respawn_due() {
    for (Worker& worker : own_workers()) {
        {
            PoolLock lock(rooms_.mutex);
            if (worker.lane.condition().alive || !is_wanted(worker) ||
                sys::Clock::now() < worker.respawn_at)
                continue;
        }
        try {
            launch(worker);  // takes milliseconds: without the mutex
        } catch (...) {
            note_failed_launch(worker, std::current_exception());
        }
    }
}

// --- ending ------------------------------------------------------------------------------------

void Fleet::ask_all_to_leave(Hold& hold) {
    for (Worker& worker : pool_.workers) worker.lane.ask_to_leave(hold);
    if (Elsewhere* elsewhere = rooms_.dispatcher.elsewhere()) elsewhere->end(false);
}

bool Fleet::all_gone() const {
    return std::none_of(pool_.workers.begin(), pool_.workers.end(),
                        [](const Worker& worker) { return worker.lane.condition().alive; });
}

std::vector<int> Fleet::pids() const {
    std::vector<int> pids;
    for (const Worker& worker : pool_.workers)
        if (worker.lane.condition().alive) pids.push_back(worker.lane.pid);
    return pids;
}

sys::Deadline Fleet::next_due() const {
    sys::Deadline due;
    auto consider = [&](const sys::Deadline& at) {
        if (at && (!due || *at < *due)) due = at;
    };
    for (const Worker& worker : pool_.workers) {
        const RingLane& lane = worker.lane;
        if (!lane.condition().alive && is_wanted(worker)) consider(worker.respawn_at);
        consider(lane.process.leave_by);
        consider(lane.process.cut_off_at);
        consider(lane.process.gone_by);
        consider(ready_by(worker));
    }
    return due;
}

void Fleet::end_overdue(Hold& hold) {
    auto now = sys::Clock::now();
    auto is_due = [&](sys::Deadline& deadline) {
        if (!deadline || now < *deadline) return false;
        deadline.reset();
        return true;
    };
    bool kill_all = rooms_.timers.take_due(Timers::Purpose::terminate, now);
    for (Worker& worker : pool_.workers) {
        RingLane& lane = worker.lane;
        if (is_due(lane.process.leave_by) || kill_all) lane.signal(SIGKILL, hold);
        if (is_due(lane.process.cut_off_at) && pool_.talk.lives_on(lane)) {
            lane.retire(hold);
            rooms_.dispatcher.refill(hold);
        }
        if (is_due(lane.process.gone_by)) pool_.deaths.give_up(worker, hold);
        sys::Deadline start_ends = ready_by(worker);
        if (is_due(start_ends)) break_down_for(worker, hold);
    }
}

sys::Deadline Fleet::ready_by(const Worker& worker) const {
    const RingLane::Condition& is = worker.lane.condition();
    const std::chrono::nanoseconds timeout = rooms_.options.start_timeout;
    if (timeout.count() == 0 || !is.alive || is.ready || is.leaving || rooms_.life.ending())
        return {};
    return saturating_add(worker.started_at, timeout);
}

// It has had start_timeout.
void Fleet::break_down_for(const Worker& worker, Hold& hold) {
    const RingLane& lane = worker.lane;
    const bool initializing =
        lane.memory()->words().initializing.load(std::memory_order_relaxed) != 0;
    auto ms =
        std::chrono::duration_cast<std::chrono::milliseconds>(rooms_.options.start_timeout.time())
            .count();
    pool_.end.break_down(
        broken_pool([&] {
            return initializing
                       ? fmt::format(
                             "the pool is broken: the initializer of worker {} had not ended {} ms "
                             "after its start (PoolOptions::start_timeout): look at what it waits "
                             "for, or give it more time",
                             lane.pid, ms)
                       : fmt::format(
                             "the pool is broken: worker {} had not come to sidestep::init() {} ms "
                             "after its start (PoolOptions::start_timeout): call it first in "
                             "main(), look at what the program does before, or give it more time",
                             lane.pid, ms);
        }),
        hold);
    hold.wake_waiters();
}

// One at a time: a worker that is too old, or has grown too much.
void Fleet::retire_old(sys::Clock::time_point now, Hold& hold) {
    const PoolOptions& options = rooms_.options;
    if (options.max_age.count() == 0 && options.max_memory_growth == 0) return;
    if (std::any_of(pool_.workers.begin(), pool_.workers.end(), [](const Worker& worker) {
            const RingLane::Condition& is = worker.lane.condition();
            return is.retiring || (is.alive && !is.ready);
        }))
        return;
    Worker* oldest = nullptr;  // or each would wait for its turn until the first are young
    for (Worker& worker : pool_.workers) {
        RingLane& lane = worker.lane;
        if (!lane.condition().alive || lane.condition().leaving || lane.stopping) continue;
        if (oldest && oldest->started_at <= worker.started_at) continue;
        bool old = options.max_age.count() > 0 && now - worker.started_at > options.max_age.time();
        bool large = options.max_memory_growth > 0 && worker.private_memory &&
                     lane.memory_look.growth(*worker.private_memory) > options.max_memory_growth;
        if (old || large) oldest = &worker;
    }
    if (!oldest) return;
    oldest->lane.retire(hold);
    rooms_.dispatcher.refill(hold);
}

// Without the mutex: to read what a worker uses takes a lock of the worker's.
void Fleet::measure_growth() {
    if (rooms_.options.max_memory_growth == 0 || sys::Clock::now() < growth_look_) return;
    growth_look_ = sys::Clock::now() + kGrowthLook;
    for (Worker& worker : own_workers())
        if (worker.lane.condition().alive && worker.lane.condition().ready)
            worker.private_memory = private_memory(worker.lane.pid);
}

// After idle_timeout all workers leave.
void Fleet::sleep_if_idle(sys::Clock::time_point now, Hold& hold) {
    Timers& timers = rooms_.timers;
    const PoolOptions& options = rooms_.options;
    if (options.idle_timeout.count() == 0 || asleep_) return;
    if (rooms_.task_end.outstanding() > 0 || rooms_.life.sealed() || rooms_.life.ending())
        return timers.clear(Timers::Purpose::idle);
    if (!timers.is_set(Timers::Purpose::idle))
        timers.set(Timers::Purpose::idle, saturating_add(now, options.idle_timeout));
    if (!timers.take_due(Timers::Purpose::idle, now)) return;
    asleep_ = true;
    for (Worker& worker : pool_.workers) worker.lane.set_dormant(true, hold);
}

void Fleet::wake(Hold& hold) {
    asleep_ = false;
    rooms_.timers.clear(Timers::Purpose::idle);
    for (Worker& worker : pool_.workers) {
        worker.lane.set_dormant(false, hold);
        worker.respawn_at = sys::Clock::now();
    }
    pool_.relief.share_out(hold);
    hold.kick_supervisor();
}

// --- resizing ----------------------------------------------------------------------------------

void Fleet::resize(std::uint32_t target, Hold& hold) {
    target_ = target;
    pool_.relief.set_target(target, hold);
    hold.kick_supervisor();
}

// Grows or shrinks to the number of workers that is wanted.
void Fleet::follow_target() {
    Hold hold(rooms_.mutex, rooms_.sleepers);
    // Keys belong to those that are always there.
    std::uint32_t keyed = target(), wanted = keyed + pool_.relief.helpers();
    Backlog& backlog = rooms_.dispatcher.backlog();
    if (wanted == 0 || (backlog.workers() == keyed && followed_ == wanted)) return;
    while (pool_.workers.size() < wanted) {
        add_worker();
        pool_.workers.back().lane.set_dormant(asleep_, hold);
    }
    if (backlog.workers() != keyed) backlog.resize(keyed);
    followed_ = wanted;  // from here on nothing throws
    for (Worker& worker : pool_.workers) {
        RingLane& lane = worker.lane;
        worker.surplus = lane.number >= wanted;
        if (worker.surplus && lane.condition().alive && !lane.condition().leaving)
            lane.retire(hold);
    }
    pool_.relief.share_out(hold);
}

}  // namespace sidestep::detail
