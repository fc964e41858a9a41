// The end of workers, and how many there are: reaping, sorting the tasks of a dead one, replacing,
// recycling, resizing.
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <new>

#include <sidestep/detail/chunk.hpp>
#include <sidestep/pool_errors.hpp>

#include "pool_core.hpp"
#include "process_memory.hpp"
#include "spare_errors.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
constexpr auto kLongestBackOff = 100ms;
constexpr auto kLifelineTime = 5s;  // from the end of a worker's lifeline to its own, at most
constexpr auto kGrowthLook = 20ms;  // how often it is looked how much workers have grown

bool has_message(int socket) {
    pollfd entry = {socket, POLLIN, 0};
    return ::poll(&entry, 1, 0) == 1;
}

}  // namespace

// --- death -------------------------------------------------------------------------------------

// I4: the kernel has declared the death; then done is drained, taken is classified, ready requeued.
void PoolCore::handle_death(std::uint32_t index) {
    WorkerLink& link = own_links()[index];
    if (!link.alive) return;
    ExitStatus status = sys::wait_pidfd(link.process.pidfd.get(), false, true);
    if (status.running()) return;
    if (!link.ready && has_message(link.process.control.get()))
        attempt([&]() SUPERVISOR_ONLY {
            handle_control(index);
        });  // what it said last explains its death
    Hold hold(mutex_, *this);
    // What its tasks left running goes with it, while its zombie reserves the group's number.
    ::kill(-link.process.pid, SIGKILL);
    attempt([&] { status = sys::wait_pidfd(link.process.pidfd.get(), true); });
    orphans_.add(link.process.pid);
    bool in_order = status.success() && link.stopping && !link.eviction;
    insight_.note_worker_ended(index, link.process.pid, in_order, status);
    drain(link, hold);
    bury(link, status, hold);
    refill(hold);
    rebalance(hold);
    hold.wake_waiters();
    control_->bell.wake_all();  // it may have been about to wake the sleeper, and taken its bit
}

// From here on nothing throws, and each of its tasks has its place.
void PoolCore::bury(WorkerLink& link, const ExitStatus& status, Hold& hold) {
    int pid = link.process.pid;
    bool evicted = link.eviction.has_value();
    if (evicted) finish_eviction(link, hold);
    // Killed while it was idle, a worker says nothing about those that follow it.
    bool idle = link.ready && link.ring().in_flight() == 0;
    sort_tasks_of_dead(link, status, hold);
    bool expected = link.stopping || evicted || life_.ending();
    bool initialized = link.ready || !options_.initializer;
    retire(link);
    if (!expected && !idle) note_barren_death(link);
    if (!expected && !initialized)
        break_pool(
            broken_pool([&] {
                return fmt::format(
                    "the pool is broken: worker {} {} before its initializer had ended; "
                    "{}: nothing is tried again",
                    pid, status.describe(),
                    link.boot_failure.empty() ? "look at what that does" : link.boot_failure);
            }),
            hold);
    unsigned deaths = barren_deaths_;
    if (!life_.broken() && crash_loop())
        break_pool(broken_pool([&] {
                       return fmt::format(
                           "the pool is broken: {} workers in a row died without beginning "
                           "a task, the last one (process {}) {}; {}",
                           deaths, pid, status.describe(),
                           link.boot_failure.empty()
                               ? "run the program under a debugger, or look at what its start-up "
                                 "does before init()"
                               : link.boot_failure);
                   }),
                   hold);
}

// It can be ended by no means that we have, and nobody waits for it: the pool ends without it.
void PoolCore::give_up(WorkerLink& link, Hold& hold) {
    if (!link.alive) return;
    if (!life_.ending())
        break_pool(broken_pool([&] {
                       return fmt::format(
                           "the pool is broken: worker {} is to end, and cannot be signalled "
                           "(Operation not permitted), nor does it end when its lifeline closes: "
                           "it, or this process, has changed its user; end it by hand",
                           link.process.pid);
                   }),
                   hold);
    bury(link, ExitStatus::lost_status(), hold);
    hold.wake_waiters();
}

void PoolCore::sort_tasks_of_dead(WorkerLink& link, const ExitStatus& status, Hold& hold) {
    RingParent& ring = link.ring();
    // It found out itself, or left words that contradict each other.
    const WorkerWords& words = link.memory->words();
    auto damage = static_cast<Damage>(words.damaged.load(std::memory_order_relaxed));
    if (damage != Damage::none || contradicts_itself(link)) link.corrupt = true;
    // Two words have to agree that the front was not begun: a stray write into one of them must not
    // have a task run twice. (One whose arguments were overwritten is taken, and not begun.)
    bool front_waits = words.begun.load(std::memory_order_relaxed) <= ring.consumed() &&
                       (ring.front_state() == SlotState::ready || damage == Damage::task_refused);
    for (std::uint64_t i = ring.published(); i-- > ring.consumed();) {
        PoolTask* task = std::exchange(link.shadow[ring.position(i)], nullptr);
        if (!task) continue;  // the request to stop
        // R3: only the front can have been running, whatever the worker wrote elsewhere.
        bool not_begun = i != ring.consumed() || front_waits;
        if (life_.ending())
            fail_at_end(task, hold);
        else if (not_begun)
            backlog_.push_back(task);
        else {
            keep_output(link, *task);
            lose(link, task, lost_error(link, *task, status), hold);
        }
    }
}

void PoolCore::lose(WorkerLink& link, PoolTask* task, const std::exception_ptr& error, Hold& hold) {
    note_stopped(link, *task, FailureKind::crash);
    if (!split_if_memory(link, task, FailureKind::crash, error, hold))
        settle(task, FailureKind::crash, error, hold);
}

// If there is no memory for its parts, a chunk fails as a whole.
bool PoolCore::split_if_memory(WorkerLink& link, PoolTask* task, FailureKind kind,
                               const std::exception_ptr& error, Hold& hold) noexcept {
    try {
        return split(link, task, kind, error, hold);
    } catch (...) {
        return false;
    }
}

TaskError::Details PoolCore::describe(const WorkerLink& link, const PoolTask& task) {
    TaskError::Details details;
    details.pid = link.process.pid;
    details.worker_index = link.index;
    details.task = task.serial_;
    details.task_type = describe_entry(*task.entry_);
    details.function = task.function_;
    if (link.output) details.output = link.output->read();
    if (task.is_chunk() && link.memory) {
        RingParent& ring = link.memory->ring;
        std::uint64_t done = ChunkProgress::items(
            ring.slot(ring.consumed()).progress.load(std::memory_order_relaxed));
        std::uint64_t last = task.items_end_ - task.items_begin_ - 1;
        details.item = task.first_item_ + task.items_begin_ + std::min(done, last);
    }
    return details;
}

std::exception_ptr PoolCore::lost_error(const WorkerLink& link, const PoolTask& task,
                                        const ExitStatus& status) noexcept {
    bool oom_killed = status.signal() == SIGKILL && !link.corrupt && oom_kills_rose();
    return made_or(spare_errors().lost, [&] {
        TaskError::Details details = describe(link, task);
        details.exit_status = status;
        details.stack = crash_addresses(link.memory->crash());
        details.note = last_words(details.output);
        if (link.corrupt)
            details.note =
                "it had overwritten its shared memory, or written to the pool's socket, so the "
                "pool stopped it";
        details.oom_killed = oom_killed;
        return std::make_exception_ptr(WorkerLost(std::move(details)));
    });
}

// The kernel has killed a process for want of memory since it was last asked.
bool PoolCore::oom_kills_rose() noexcept {
    try {
        auto kills = oom_kills(), before = std::exchange(oom_kills_, kills);
        return kills && before && *before < *kills;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

// The process is reaped. Results that wait in its memory keep that alive.
void PoolCore::retire(WorkerLink& link) {
    control_->set_parked(link.index, true);
    link.tally.add(link.memory->words(), sys::Clock::now());
    link.memory->alive = false;
    link.memory = nullptr;
    if (link.output) link.output->end();
    link.output = nullptr;
    // By name: closing is not enough while a forked process has the descriptors too.
    (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, link.process.pidfd.get(), nullptr);
    (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, link.process.control.get(), nullptr);
    (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, link.bell.get(), nullptr);
    link.bell.reset();
    link.process = {};
    link.alive = link.ready = link.retiring = false;
    link.leave_by.reset();
    link.cut_off_at.reset();
    link.gone_by.reset();
    link.stuck = 0;
    link.respawn_at = sys::Clock::now();
}

// A worker died, or could not be started, that did not begin anything.
void PoolCore::note_barren_death(WorkerLink& link) {
    barren_deaths_ = task_end_.completed() == completed_at_death_ ? barren_deaths_ + 1 : 0;
    completed_at_death_ = task_end_.completed();
    auto back_off = barren_deaths_ < 2 ? 0ms : 1ms * (1 << std::min(barren_deaths_, 10u));
    link.respawn_at =
        sys::Clock::now() + std::min<std::chrono::milliseconds>(back_off, kLongestBackOff);
}

// Many in a row, and nobody left who works.
bool PoolCore::crash_loop() const {
    return barren_deaths_ > 4 + 2 * links_.size() &&
           std::none_of(links_.begin(), links_.end(),
                        [](const WorkerLink& l) { return l.alive && l.ready; });
}

void PoolCore::respawn_due() {
    for (WorkerLink& link : own_links()) {
        {
            Lock lock(mutex_);
            if (link.alive || !wanted(link) || sys::Clock::now() < link.respawn_at) continue;
        }
        try {
            launch(link);  // takes milliseconds: without the mutex
        } catch (...) {
            note_failed_launch(link, std::current_exception());
        }
    }
}

void PoolCore::break_pool(std::exception_ptr reason, Hold& hold) noexcept {
    life_.break_down(std::move(reason));
    fail_everything([&](PoolTask* task)
                        POOL_LOCKED { task_end_.fail(task, life_.why_broken(), hold); });
    signal_workers(SIGKILL, hold);
}

// Fails what waits. If the pool ends now, what is in rings fails when its worker is gone, and
// Retry::when is asked in vain.
void PoolCore::fail_everything(const std::function<void(PoolTask*)>& fail_it) {
    while (PoolTask* task = backlog_.pop_anything()) fail_it(task);
    if (!life_.ending()) return;
    for (PoolTask* task : std::exchange(judged_, {})) fail_it(task);
}

// A task that was not done when the pool was terminated, or broke.
void PoolCore::fail_at_end(PoolTask* task, Hold& hold) {
    if (life_.broken())
        task_end_.fail(task, life_.why_broken(), hold);
    else
        task_end_.cancel(task, spare_errors().terminated, hold);
}

// The worker's process group, and the worker itself by its pidfd: it may have left its group, and a
// child of its may be there still. (SIGTERM comes once, if it leads its group.) Where this process
// may not signal it any more, having given up privileges, SIGKILL comes through the lifeline: the
// kernel sends that with the rights that the worker had when it armed it.
void PoolCore::signal_worker(WorkerLink& link, int signal, Hold& hold) noexcept {
    if (!link.alive) return;
    // Its number, and the group's, are reserved while it is unreaped.
    int pid = link.process.pid;
    bool in_group = ::getpgid(pid) == pid;
    bool group_got_it = ::kill(-pid, signal) == 0;
    if (signal != SIGKILL && group_got_it && in_group) return;
    int error = sys::try_signal(link.process.pidfd.get(), signal);
    if (signal != SIGKILL || error == 0 || error == ESRCH) return;
    link.process.lifeline.reset();
    if (!link.gone_by) link.gone_by = sys::Clock::now() + kLifelineTime;
    hold.kick_supervisor();
}

void PoolCore::signal_workers(int signal, Hold& hold) noexcept {
    for (WorkerLink& link : links_) signal_worker(link, signal, hold);
}

// --- how many there are ------------------------------------------------------------------------

// It is to run, if it does not.
bool PoolCore::wanted(const WorkerLink& link) const {
    return !life_.ending() && !life_.sealed() && !link.dormant && !link.surplus;
}

void PoolCore::ask_to_stop(WorkerLink& link, Hold& hold) {
    if (!link.alive || link.stopping) return;
    link.stopping = true;
    link.leave_by = later(sys::Clock::now(), options_.leave_grace);
    hold.kick_supervisor();  // it may sleep for longer
    RingParent& ring = link.ring();
    TaskSlot& slot = ring.next();
    slot.module = slot.serial = slot.block = slot.size = 0;
    slot.offset = kStopOffset;
    slot.sum = SlotSum::of_task(slot, slot.inline_bytes);
    link.shadow[ring.position(ring.published())] = nullptr;
    ring.publish();
    ring.wake();
}

void PoolCore::ask_all_to_stop(Hold& hold) {
    for (WorkerLink& link : links_) ask_to_stop(link, hold);
}

// Finishes what it runs, and leaves.
void PoolCore::retire_early(WorkerLink& link, Hold& hold) {
    link.retiring = true;
    take_back_from(link, link.ring().consumed() + (front_runs(link) ? 1 : 0));
    if (link.ring().in_flight() == 0) ask_to_stop(link, hold);
}

// One at a time: a worker that is too old, or has grown too much.
void PoolCore::retire_old(sys::Clock::time_point now, Hold& hold) {
    if (options_.max_age.count() == 0 && options_.max_memory_growth == 0) return;
    if (std::any_of(links_.begin(), links_.end(),
                    [](const WorkerLink& l) { return l.retiring || (l.alive && !l.ready); }))
        return;
    WorkerLink* oldest = nullptr;  // or each would wait for its turn until the first are young
    for (WorkerLink& link : links_) {
        if (!link.alive || link.stopping || link.eviction) continue;
        if (oldest && oldest->started_at <= link.started_at) continue;
        bool old = options_.max_age.count() > 0 && now - link.started_at > options_.max_age.time();
        bool large = options_.max_memory_growth > 0 && link.private_memory &&
                     *link.private_memory > link.memory_at_start + options_.max_memory_growth;
        if (old || large) oldest = &link;
    }
    if (!oldest) return;
    retire_early(*oldest, hold);
    refill(hold);
}

// P5. Links and their processes change in this thread only.
void PoolCore::measure_growth() {
    if (options_.max_memory_growth == 0 || sys::Clock::now() < growth_look_) return;
    growth_look_ = sys::Clock::now() + kGrowthLook;
    for (WorkerLink& link : own_links())
        if (link.alive && link.ready) link.private_memory = private_memory(link.process.pid);
}

// After idle_timeout all workers leave.
void PoolCore::sleep_if_idle(sys::Clock::time_point now, Hold& hold) {
    if (options_.idle_timeout.count() == 0 || asleep_) return;
    if (task_end_.outstanding() > 0 || life_.sealed() || life_.ending())
        return timers_.clear(Timers::Purpose::idle);
    if (!timers_.is_set(Timers::Purpose::idle))
        timers_.set(Timers::Purpose::idle, later(now, options_.idle_timeout));
    if (!timers_.take_due(Timers::Purpose::idle, now)) return;
    asleep_ = true;
    for (WorkerLink& link : links_) {
        link.dormant = true;
        if (link.alive && link.ring().in_flight() == 0) ask_to_stop(link, hold);
    }
}

void PoolCore::wake_dormant(Hold& hold) {
    asleep_ = false;
    timers_.clear(Timers::Purpose::idle);
    for (WorkerLink& link : links_) {
        link.dormant = false;
        link.respawn_at = sys::Clock::now();
    }
    hold.kick_supervisor();
}

void PoolCore::resize(unsigned workers) {
    require_owner();
    Hold hold(mutex_, *this);
    life_.require_accepting();
    target_ = workers;
    hold.kick_supervisor();
}

// Grows or shrinks to the number of workers that is wanted.
void PoolCore::follow_target() {
    Hold hold(mutex_, *this);
    std::uint32_t target = workers();
    if (backlog_.workers() == target) return;
    while (links_.size() < target) {
        auto index = static_cast<std::uint32_t>(links_.size());  // not in one statement: that
        WorkerLink& link = links_.emplace_back();                // evaluates the right side first
        link.index = index;
        link.dormant = asleep_;
    }
    backlog_.resize(target);  // from here on nothing throws
    for (WorkerLink& link : links_) {
        link.surplus = link.index >= target;
        if (link.surplus && link.alive && !link.stopping) retire_early(link, hold);
    }
    refill(hold);
}

}  // namespace sidestep::detail
