#include "supervise/supervisor.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "spare_errors.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::chrono::milliseconds kTroublePause{2};

}  // namespace

Supervisor::Supervisor(const PoolRooms& rooms, const Pool& pool)
    : rooms_(rooms), pool_(pool), bell_(sys::make_eventfd()) {}

void Supervisor::open() {
    bell_ = ParentFd(sys::make_eventfd());
    pool_.loop.open();
    pool_.loop.add(bell_.get(), [this] {
        std::uint64_t count;
        (void)!::read(bell_.get(), &count, sizeof count);
    });
}

void Supervisor::start() {
    thread_.start("sidestep-pool", ServiceThread::Runs::library_code, [this] { run(); });
}

void Supervisor::kick() noexcept {
    std::uint64_t one = 1;
    (void)!::write(bell_.get(), &one, sizeof one);
}

void Supervisor::run() {
    Supervising here;
    bool called = false;
    for (;;) {
        // SYNC(attended): armed, fence, then a look at the rings; see Worker::ring_supervisor. If
        // it was armed still, no worker has called, and what each has completed is for others.
        called = pool_.page.armed.exchange(1) == 0 || called;
        std::atomic_thread_fence(std::memory_order_seq_cst);
        int timeout = 0;
        bool ends = false;
        attempt([&]() SUPERVISOR_ONLY {
            Hold hold(rooms_.mutex, rooms_.sleepers);
            Lifecycle& life = rooms_.life;
            rooms_.sleepers.say_who_attends();
            if ((called || life.ending()) && rooms_.dispatcher.drain(life.ending(), hold))
                hold.wake_waiters();
            called = false;
            const Elsewhere* elsewhere = rooms_.dispatcher.elsewhere();
            ends = (life.sealed() || life.broken()) && pool_.fleet.all_gone() &&
                   (!elsewhere || elsewhere->has_ended());
            timeout = next_timeout();
        });
        if (ends) break;
        int error = pool_.loop.wait(timeout, [this](const EventLoop::Callback& callback)
                                                 SUPERVISOR_ONLY { attempt([&] { callback(); }); });
        if (error != 0) {
            attempt([&] { throw_errno(error, "epoll_wait(pool)"); });
            pool_.fleet.look_at_all([this](auto step) SUPERVISOR_ONLY { attempt(step); });
        }
        do_what_is_due();
        pool_.deaths.reap_orphans();
        weather_trouble();
    }
    pool_.deaths.reap_orphans_at_end();
    Hold hold(rooms_.mutex, rooms_.sleepers);
    done_ = true;
    hold.wake_waiters();
}

void Supervisor::do_what_is_due() {
    attempt([this]() SUPERVISOR_ONLY { pool_.fleet.follow_target(); });
    attempt([this]() SUPERVISOR_ONLY { pool_.fleet.respawn_due(); });
    attempt([this]() SUPERVISOR_ONLY { pool_.fleet.measure_growth(); });
    attempt([this]() SUPERVISOR_ONLY {
        Hold hold(rooms_.mutex, rooms_.sleepers);
        pool_.fleet.end_overdue(hold);
        if (rooms_.life.ending())
            rooms_.timers.clear(Timers::Purpose::policies);  // nobody looks at it any more
        else
            pool_.limits.enforce(hold);
        pool_.housekeeper.tidy(sys::Clock::now(), hold);
    });
    attempt([this]() SUPERVISOR_ONLY { pool_.limits.enforce_memory(); });
}

void Supervisor::weather_trouble() noexcept {
    Trouble::Round round = pool_.trouble.end_round(rooms_.options.start_patience);
    if (round == Trouble::Round::good) return;
    if (round == Trouble::Round::hopeless) {
        Hold hold(rooms_.mutex, rooms_.sleepers);
        if (!rooms_.life.ending()) {
            const std::exception_ptr& trouble = pool_.trouble.last();
            pool_.end.break_down(
                broken_pool([&] {
                    return fmt::format(
                        "the pool is broken: its supervisor has failed again and again: {}; "
                        "see what is used up, and make a new pool",
                        text_of(trouble));
                }),
                hold);
            hold.wake_waiters();
        }
    }
    std::this_thread::sleep_for(kTroublePause);  // the event is there still
}

// Milliseconds until something is due; -1: nothing is.
int Supervisor::next_timeout() {
    if (pool_.trouble.lasts()) return 0;  // weather_trouble() has paused
    sys::Deadline due = rooms_.timers.first();
    for (const sys::Deadline& at : {pool_.deaths.next_look(), pool_.fleet.next_due()})
        if (at) due = due ? std::min(*due, *at) : *at;
    return sys::poll_timeout(due);
}

}  // namespace sidestep::detail
