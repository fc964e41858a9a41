// The supervisor: the one thread of a pool that starts, reaps and replaces workers
// (pool_workers.cpp) and enforces policies (pool_policy.cpp). It sleeps in epoll on their pidfds,
// their control sockets and an eventfd, and drains the rings when nobody else does.
#include <fmt/format.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <iterator>
#include <stdexcept>
#include <thread>

#include <sidestep/pool_errors.hpp>

#include "pool_core.hpp"
#include "pool_events.hpp"
#include "spare_errors.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
constexpr auto kTick = 2ms;  // how often stuck tasks are looked for while tasks wait in rings
constexpr auto kHeartbeat = 250ms;     // and while there are tasks at all
constexpr unsigned kLooksToEvict = 5;  // then tasks leave a stuck ring although nobody is idle
constexpr auto kOrphans = 10ms;        // how often those that were killed are looked for
constexpr auto kOrphansEnd = 1s;       // and for how long at the end
constexpr unsigned kIdleLooks = 4;     // then memory that nobody uses goes back to the system
constexpr auto kTerminateGrace = 1s;   // from SIGTERM to SIGKILL

}  // namespace

// --- the loop ----------------------------------------------------------------------------------

void PoolCore::supervise() {
    Supervising here;
    epoll_event events[64];
    for (;;) {
        // SYNC(attended): armed, fence, then a look at the rings; see Worker::ring_supervisor.
        control_->armed.store(1);
        std::atomic_thread_fence(std::memory_order_seq_cst);
        int timeout = 0;
        bool ends = false;
        attempt([&]() SUPERVISOR_ONLY {
            Hold hold(mutex_, *this);
            if (drain(hold)) hold.wake_waiters();
            ends = (life_.sealed() || life_.broken()) && all_gone();
            timeout = next_timeout();
        });
        if (ends) break;
        int n = epoll_wait(epoll_.get(), events, std::size(events), timeout);
        if (n < 0 && errno != EINTR) look_at_all(errno);
        for (int i = 0; i < n; ++i)
            attempt([&]() SUPERVISOR_ONLY { handle_event(events[i].data.u64); });
        attempt([this]() SUPERVISOR_ONLY { follow_target(); });
        attempt([this]() SUPERVISOR_ONLY { respawn_due(); });
        attempt([this]() SUPERVISOR_ONLY { tick(); });
        attempt([this]() SUPERVISOR_ONLY { enforce_memory_limits(); });
        orphans_.reap();
        weather_trouble();
    }
    orphans_.reap_until(sys::Clock::now() + kOrphansEnd);
    Hold hold(mutex_, *this);
    supervisor_done_ = true;
    hold.wake_waiters();
}

// What lasts longer than a shortage may is no shortage.
void PoolCore::weather_trouble() noexcept {
    if (!trouble_) return trouble_since_.reset();
    std::exception_ptr trouble = std::exchange(trouble_, nullptr);
    auto now = sys::Clock::now();
    if (!trouble_since_) trouble_since_ = now;
    if (now >= later(*trouble_since_, options_.start_patience)) {
        Hold hold(mutex_, *this);
        if (!life_.ending()) {
            break_pool(broken_pool([&] {
                           return fmt::format(
                               "the pool is broken: its supervisor has failed again and again: {}; "
                               "see what is used up, and make a new pool",
                               text_of(trouble));
                       }),
                       hold);
            hold.wake_waiters();
        }
    }
    std::this_thread::sleep_for(kTick);  // the event is there still
}

// The kernel tells of no events: each worker is looked at.
void PoolCore::look_at_all(int error) noexcept {
    attempt([&] { throw_errno(error, "epoll_wait(pool)"); });
    for (std::uint32_t i = 0; i < own_links().size(); ++i) {
        attempt([&]() SUPERVISOR_ONLY { handle_control(i); });
        attempt([&]() SUPERVISOR_ONLY { handle_death(i); });
    }
}

bool PoolCore::all_gone() const {
    return std::none_of(links_.begin(), links_.end(), [](const WorkerLink& l) { return l.alive; });
}

sys::Clock::time_point PoolCore::next_look() const {
    return last_look_ + (ticking_ ? std::chrono::milliseconds(kTick) : kHeartbeat);
}

// Milliseconds until something is due; -1: nothing is.
int PoolCore::next_timeout() {
    if (trouble_since_) return 0;  // weather_trouble() has paused
    sys::Deadline due = timers_.first();
    auto consider = [&](sys::Clock::time_point at) { due = due ? std::min(*due, at) : at; };
    if (!orphans_.empty()) consider(sys::Clock::now() + kOrphans);
    for (WorkerLink& link : links_) {
        if (!link.alive && wanted(link)) consider(link.respawn_at);
        for (const sys::Deadline& by : {link.leave_by, link.cut_off_at, link.gone_by})
            if (by) consider(*by);
    }
    return sys::poll_timeout(due);
}

void PoolCore::handle_event(std::uint64_t data) {
    auto index = static_cast<std::uint32_t>(data);
    switch (static_cast<EventSource>(data >> 32)) {
        case EventSource::bell: {
            std::uint64_t count;
            (void)!::read(supervisor_bell_.get(), &count, sizeof count);
            return;
        }
        case EventSource::ring:
            return;  // the rings are looked at in each round
        case EventSource::control:
            return handle_control(index);
        case EventSource::death:
            return handle_death(index);
    }
}

// Looks for tasks that wait behind one that runs long, or for a worker that is stopped; for what
// has had its time; and whether the ladder to SIGKILL is due.
void PoolCore::tick() {
    measure_growth();
    Hold hold(mutex_, *this);
    kill_overdue(hold);
    if (life_.ending())
        timers_.clear(Timers::Purpose::policies);  // nobody looks at it any more
    else
        enforce(hold);
    auto now = sys::Clock::now();
    trim_outputs(now);
    let_go_of_handles(now);
    sleep_if_idle(now, hold);
    if (!timers_.is_due(Timers::Purpose::rings, now)) return;
    last_look_ = now;
    timers_.set(Timers::Purpose::rings, next_look());  // also if something throws
    if (drain(hold)) hold.wake_waiters();
    for (WorkerLink& link : links_) {
        note_front(link, hold);
        link.deaf = false;
        if (link.memory) link.memory->give_back_queued();
    }
    rebalance(hold);
    // Nobody is idle, but somebody will be before the stuck ones: it is the turn of what waits
    // there, ahead of all that was submitted later.
    for (WorkerLink& link : links_)
        if (link.stuck >= kLooksToEvict && !life_.ending())
            take_back_from(link, link.ring().published() - waiting(link));
    refill(hold);
    retire_old(now, hold);
    ticking_ = std::any_of(links_.begin(), links_.end(), [](WorkerLink& l) {
        return l.alive && (l.deaf || l.doubtful || l.ring().in_flight() >= 2);
    });
    bool busy = task_end_.outstanding() > 0 || task_end_.completed() != completed_at_look_;
    completed_at_look_ = task_end_.completed();
    idle_looks_ = busy ? 0 : idle_looks_ + 1;
    // Workers take a queue full of blocks at a time, when they need one or have nothing to do.
    watching_ = idle_looks_ < kIdleLooks || std::any_of(links_.begin(), links_.end(), [](auto& l) {
                    return l.memory && l.memory->owes();
                });
    if (ticking_ || watching_)
        timers_.set(Timers::Purpose::rings, next_look());
    else
        timers_.clear(Timers::Purpose::rings);
    if (busy) timers_.clear(Timers::Purpose::idle);
    if (!watching_) give_back_arguments(hold);
}

// Without the mutex while pages are freed, which takes long.
void PoolCore::give_back_arguments(Hold& hold) {
    Arena::Free free = args_.take_free();
    if (free.has_pages()) {
        hold.unlock();
        free.discard(args_segment_);
        hold.lock();
    }
    args_.put_back(std::move(free));
}

// Workers keep shared objects that come with tasks for the next ones, until we have them no more.
void PoolCore::let_go_of_handles(sys::Clock::time_point now) {
    if (!timers_.is_due(Timers::Purpose::handles, now)) return;
    timers_.set(Timers::Purpose::handles, now + kLetGo);
    bool any = false;
    for (WorkerLink& link : links_) {
        if (!link.alive) continue;
        link.given.take_back(link.process.control.get());
        any = any || !link.given.empty();
    }
    if (!any) timers_.clear(Timers::Purpose::handles);
}

void PoolCore::note_front(WorkerLink& link, Hold& hold) {
    if (!link.alive) return;
    bool busy = link.ring().in_flight() > 0;
    std::uint64_t front = busy ? link.ring().consumed() : WorkerLink::kNoFront;
    bool same = busy && front == link.last_front;  // it may be starting still, or stopped in that
    link.stuck = same ? link.stuck + 1 : 0;
    link.last_front = front;
    // Twice, since it writes one of them after the other.
    bool doubtful = !link.corrupt && contradicts_itself(link);
    if (doubtful && ((link.doubtful && same) || !link.ring().is_sound())) condemn(link, hold);
    link.doubtful = doubtful;
}

// What the worker's words say of the task at its front cannot be: a task has written over them.
bool PoolCore::contradicts_itself(WorkerLink& link) {
    RingParent& ring = link.ring();
    if (!ring.is_sound()) return true;
    if (ring.in_flight() == 0) return false;
    switch (ring.front_state()) {
        case SlotState::ready:  // but begun. Relaxed: at the second look it counts, or after death
            return link.memory->words().begun.load(std::memory_order_relaxed) > ring.consumed();
        case SlotState::taken:  // but it sleeps
            return link.alive && ring.sleeping();
        default:
            return false;  // drain() judges it
    }
}

// --- the end -----------------------------------------------------------------------------------

void PoolCore::kick_supervisor() noexcept {
    std::uint64_t one = 1;
    (void)!::write(supervisor_bell_.get(), &one, sizeof one);  // ours alone: it never waits
}

void PoolCore::kill_overdue(Hold& hold) {
    auto now = sys::Clock::now();
    auto is_due = [&](sys::Deadline& deadline) {
        if (!deadline || now < *deadline) return false;
        deadline.reset();
        return true;
    };
    if (timers_.take_due(Timers::Purpose::terminate, now)) signal_workers(SIGKILL, hold);
    for (WorkerLink& link : links_) {
        if (is_due(link.leave_by)) signal_worker(link, SIGKILL, hold);
        if (is_due(link.cut_off_at) && lives_on(link)) {
            retire_early(link, hold);
            refill(hold);
        }
        if (is_due(link.gone_by)) give_up(link, hold);
    }
}

void PoolCore::close() {
    require_owner();
    Lock lock(mutex_);
    life_.close();
}

void PoolCore::interrupt() {
    require_owner();
    {
        Lock lock(mutex_);
        if (!life_.interrupt()) return;
    }
    cancel_waiting();
}

void PoolCore::terminate() {
    require_owner();
    Hold hold(mutex_, *this);
    if (!life_.terminate()) return;
    fail_everything([&](PoolTask* task)
                        POOL_LOCKED { task_end_.cancel(task, spare_errors().terminated, hold); });
    signal_workers(SIGTERM, hold);
    timers_.set(Timers::Purpose::terminate, sys::Clock::now() + kTerminateGrace);
    hold.kick_supervisor();
    hold.wake_waiters();
}

// What join() does, without the thread that is running exit(3): that thread's callback, map or
// question to Retry::when ends nevermore.
void PoolCore::end_with_process() noexcept {
    terminate();
    {
        Hold hold(mutex_, *this);
        life_.seal();
        hold.kick_supervisor();
    }
    (void)wait([this]() POOL_LOCKED { return supervisor_done_; },
               sys::Clock::now() + 2 * kTerminateGrace);
}

void PoolCore::run_in_background(std::function<void()> work) {
    require_owner();
    {
        Lock lock(mutex_);
        life_.require_accepting();
    }
    background_.start("sidestep-map", std::move(work));
}

void PoolCore::join() {
    require_owner();
    {
        Lock lock(mutex_);
        if (life_.running())
            throw std::logic_error("join() before close() or terminate(): it would wait for ever");
    }
    if (in_own_thread())
        throw std::logic_error(
            "join() in a callback of the pool's own futures would wait for itself: call it in "
            "another thread, or let the pool end here, which does not wait");
    std::lock_guard only_one(joining_one_);  // who comes second waits for all of it, too
    background_.join();                      // what they wait for is done, or fails
    // In one step with the look: a stream may submit at any time.
    auto nothing_left = [this]() POOL_LOCKED {
        if (task_end_.outstanding() > 0 || life_.waits_for_maps()) return false;
        life_.seal();
        return true;
    };
    wait(nothing_left, {});
    {
        Hold hold(mutex_, *this);
        if (life_.closed()) ask_all_to_stop(hold);
        hold.kick_supervisor();
    }
    wait([this]() POOL_LOCKED { return supervisor_done_; }, {});
    if (supervisor_.joinable()) supervisor_.join();
    launcher_.reset();  // a fork server goes now, though futures may keep this object
    judges_.stop();     // it may have callbacks called
    callbacks_.stop();
    insight_.end_trace();  // whoever joins waits for the file
}

void PoolCore::abandon() {
    supervisor_.abandon();  // they exist in the parent only
    callbacks_.abandon();
    judges_.abandon();
    background_.abandon();
}

}  // namespace sidestep::detail
