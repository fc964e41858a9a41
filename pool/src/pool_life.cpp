// The end of a pool, and other things that its owner asks for.
#include <chrono>
#include <functional>
#include <stdexcept>

#include "pool_core.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::chrono::seconds kTerminateGrace{1};  // from SIGTERM to SIGKILL

}  // namespace

void PoolCore::close() {
    owner_.require_here();
    Hold hold(mutex_, *this);
    tasks_.life.close();
    if (options_.max_pending != 0) hold.wake_waiters();  // submit() may wait for room
}

void PoolCore::interrupt() {
    owner_.require_here();
    {
        Lock lock(mutex_);
        if (!tasks_.life.interrupt()) return;
    }
    cancel_waiting();
}

void PoolCore::cancel_waiting() {
    owner_.require_here();
    Hold hold(mutex_, *this);
    tasks_.life.cancel_maps();
    tasks_.dispatcher.drain(tasks_.life.ending(), hold);
    policies_.end.cancel_waiting(hold);
    hold.wake_waiters();
}

void PoolCore::resize(unsigned workers) {
    owner_.require_here();
    Hold hold(mutex_, *this);
    tasks_.life.require_accepting();
    supervision_.fleet.resize(workers, hold);
}

void PoolCore::terminate() {
    owner_.require_here();
    Hold hold(mutex_, *this);
    if (!tasks_.life.terminate()) return;
    policies_.end.cancel_all(hold);
    tasks_.timers.set(Timers::Purpose::terminate, sys::Clock::now() + kTerminateGrace);
    hold.kick_supervisor();
    hold.wake_waiters();
}

// What join() does, without the thread that is running exit(3): that thread's callback, map or
// question to Retry::when ends nevermore.
void PoolCore::end_with_process() noexcept {
    terminate();
    {
        Hold hold(mutex_, *this);
        tasks_.life.seal();
        hold.kick_supervisor();
    }
    (void)desk_.wait([this]() POOL_LOCKED { return supervision_.supervisor.is_done(); },
                     sys::Clock::now() + 2 * kTerminateGrace);
}

void PoolCore::run_in_background(std::function<void()> work) {
    owner_.require_here();
    {
        Lock lock(mutex_);
        tasks_.life.require_accepting();
    }
    background_.start("sidestep-map", std::move(work));
}

void PoolCore::be_destroyed() {
    close();
    Hold hold(mutex_, *this);
    tasks_.life.be_destroyed();
    hold.wake_waiters();  // a thread may be in join() already (join_until)
}

// Of a pool that goes: when all that it has waits for others, whom nothing of the pool will tell
// any more (a callback may, that of when_all()), that ends.
void PoolCore::end_vain_waits() {
    LateTasks& late = policies_.late;
    for (;;) {
        std::uint64_t left = 0;
        bool any = false;
        auto nobody_else_is_waited_for = [&]() POOL_LOCKED {
            left = late.left();
            any = tasks_.life.destroyed() && late.size() > 0;
            return !any || tasks_.task_end.outstanding() == late.size();
        };
        desk_.wait(std::ref(nobody_else_is_waited_for), {});  // by reference: without memory
        if (!any) return;
        callbacks_.settle();
        late.dependents().settle();
        Hold hold(mutex_, *this);
        if (late.left() != left) continue;
        policies_.end.cancel_late(hold);
        hold.wake_waiters();
    }
}

void PoolCore::require_joinable() {
    owner_.require_here();
    {
        Lock lock(mutex_);
        if (tasks_.life.running())
            throw std::logic_error("join() before close() or terminate(): it would wait for ever");
    }
    if (in_own_thread())
        throw std::logic_error(
            "join() in a callback of the pool's own futures would wait for itself: call it in "
            "another thread, or let the pool end here, which does not wait");
}

void PoolCore::join() {
    require_joinable();
    await_end();
    joiner_.stop();
}

bool PoolCore::join_until(const Deadline& deadline) {
    require_joinable();
    return joiner_.wait([this] { await_end(); }, deadline);
}

void PoolCore::await_end() {
    std::lock_guard only_one(joining_one_);  // who comes second waits for all of it, too
    background_.join();                      // what they wait for is done, or fails
    for (bool sealed = false; !sealed;) {
        end_vain_waits();
        // In one step with the look: a stream may submit at any time.
        auto nothing_left = [&]() POOL_LOCKED {
            if (policies_.late.wait_in_vain()) return true;
            if (tasks_.task_end.outstanding() > 0 || tasks_.life.waits_for_maps()) return false;
            tasks_.life.seal();
            return sealed = true;
        };
        desk_.wait(std::ref(nothing_left), {});
    }
    {
        Hold hold(mutex_, *this);
        if (tasks_.life.closed()) supervision_.fleet.ask_all_to_leave(hold);
        hold.kick_supervisor();
    }
    desk_.wait([this]() POOL_LOCKED { return supervision_.supervisor.is_done(); }, {});
    Supervising since_its_thread_is_gone;
    ServiceThread& supervisor = supervision_.supervisor.thread();
    if (supervisor.joinable()) supervisor.join();
    supervision_.nested.end();
    supervision_.starter.stop();  // a fork server goes now, though futures may keep this object
    policies_.retries.thread().stop();  // it may have callbacks called
    policies_.late.dependents().stop();
    callbacks_.stop();
    tasks_.insight.end_trace();  // whoever joins waits for the file
}

bool PoolCore::in_own_thread() {
    return callbacks_.is_this_thread() || policies_.retries.thread().is_this_thread() ||
           policies_.late.dependents().is_this_thread() || background_.is_this_thread() ||
           InPool::is_here(*this);
}

// They exist in the parent only.
void PoolCore::abandon() {
    supervision_.supervisor.thread().abandon();
    supervision_.nested.abandon();
    callbacks_.abandon();
    policies_.retries.thread().abandon();
    policies_.late.dependents().abandon();
    background_.abandon();
    joiner_.abandon();
    supervision_.starter.abandon();
}

}  // namespace sidestep::detail
