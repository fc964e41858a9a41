#include "intake.hpp"

#include <functional>
#include <utility>

#include <sidestep/detail/call_times.hpp>

#include "place.hpp"
#include "spare_errors.hpp"

namespace sidestep::inline v0::detail {

namespace {

constexpr std::uint64_t kTinyTasksForOneLook = 32;

}  // namespace

Intake::Intake(const PoolRooms& rooms, const Pool& pool, const WaitRoom& waiters, FutureDesk& desk)
    : rooms_(rooms),
      pool_(pool),
      waiters_(waiters),
      desk_(desk),
      has_default_options_(rooms.options.task.says_anything()) {}

bool Intake::accepting() {
    if (!pool_.owner.is_here()) return false;
    PoolLock lock(rooms_.mutex);
    return rooms_.life.running();
}

void Intake::check_open() {
    pool_.owner.require_here();
    PoolLock lock(rooms_.mutex);
    rooms_.life.require_accepting();
}

bool Intake::needs_place() {
    pool_.owner.require_here();
    return rooms_.options.max_pending != 0 && !pool_.ending.in_own_thread();
}

bool Intake::take_place() {
    Hold hold(rooms_.mutex, rooms_.sleepers);
    if (is_full() && rooms_.dispatcher.drain(rooms_.life.ending(), hold)) hold.wake_waiters();
    if (is_full() && rooms_.life.running()) return false;
    ++places_taken_;  // of a pool that is closed, too: submit() says why
    return true;
}

void Intake::give_place_back() {
    if (!pool_.owner.is_here()) return;
    Hold hold(rooms_.mutex, rooms_.sleepers);
    --places_taken_;
    if (!is_full()) hold.wake_waiters();
}

// The pool's own threads do not wait: what is to be done may be theirs to do.
void Intake::await_room(Hold& hold) {
    while (is_full() && !Place<Intake>::is_here(*this) && !pool_.ending.in_own_thread()) {
        hold.unlock();
        auto may_go_on = [this]() POOL_LOCKED { return !is_full() || !rooms_.life.running(); };
        (void)desk_.wait(std::ref(may_go_on), {});
        hold.lock();
        rooms_.life.require_accepting();
    }
}

void Intake::begin_map() {
    pool_.owner.require_here();
    PoolLock lock(rooms_.mutex);
    rooms_.life.begin_map();
}

void Intake::end_map() {
    if (!pool_.owner.is_here()) return;
    Hold hold(rooms_.mutex, rooms_.sleepers);
    if (rooms_.life.end_map() && !rooms_.life.running()) hold.wake_waiters();
}

void Intake::submit(const PoolTaskRef& task, TaskSink* sink, bool begun) {
    pool_.owner.require_here();
    Hold hold(rooms_.mutex, rooms_.sleepers);
    rooms_.life.require_accepting(begun);
    if (is_full() && !begun && !sink) await_room(hold);
    if (pool_.hosts.workers() > 0) OtherHosts::require_no_handles(*task->argument_view().fds);
    pool_.retries.expect(*task);
    rooms_.task_end.begin(*task);
    Dispatcher& dispatcher = rooms_.dispatcher;
    // A look at the clock costs a tenth of the shortest task: of those, few are looked at.
    bool is_long = dispatcher.task_ns() >= WorkerMeter::kTinyTaskNs;
    std::uint64_t number = task->serial;
    if (is_long || number % WorkerMeter::kTinyTasksForOne == 0) task->time_ns = steady_now_ns();
    if (sink) task->make_more().sink = sink;
    PoolTaskRef reference = task;  // the pool's own, until it is done
    pool_.fleet.wake_if_asleep(hold);
    dispatcher.place(reference.get(), hold);
    (void)reference.release();
    // Results are looked for now and then when tasks are tiny: what a look costs is the cache line
    // of the slot that the worker is at.
    if ((is_long || number % kTinyTasksForOneLook == 0) && dispatcher.drain_last_used(hold)) {
        dispatcher.refill(hold);
        if (!waiters_.is_empty()) hold.wake_waiters();
    }
    if (task->tokens() && *rooms_.options.processes == 0) await_tokens(*task, hold);
}

// Without workers: another thread has them, and runs what waits for them when it gives them back.
void Intake::await_tokens(const PoolTask& task, Hold& hold) {
    if (task.done() || pool_.ending.in_own_thread()) return;
    hold.unlock();
    (void)desk_.wait([&] { return task.done(); }, {});
    hold.lock();
}

// Nothing of it is a worker's business yet.
void Intake::submit_late(const PoolTaskRef& task, std::unique_ptr<LateArguments> arguments,
                         bool begun) {
    pool_.owner.require_here();
    LateTasks& late = pool_.late;
    std::shared_ptr<Dependents::Waiting> waiting;
    {
        Hold hold(rooms_.mutex, rooms_.sleepers);
        rooms_.life.require_accepting(begun);
        if (!begun) await_room(hold);
        if (pool_.hosts.workers() > 0) OtherHosts::require_no_handles(arguments->descriptors());
        pool_.retries.expect(*task);
        waiting = late.add(*task, std::move(arguments));
        rooms_.task_end.begin(*task);
        PoolTaskRef reference = task;  // the pool's own, until it is done
        (void)reference.release();
        pool_.fleet.wake_if_asleep(hold);
    }
    late.wait_for_needs(waiting);
}

void Intake::submit_again(const PoolTaskRef& task) {
    pool_.owner.require_here();
    Hold hold(rooms_.mutex, rooms_.sleepers);
    pool_.chunks.add_part(task);
    if (!rooms_.life.allows_retries() || rooms_.life.sealed())
        return rooms_.task_end.cancel(task.get(), spare_errors().ended, hold);
    if (*rooms_.options.processes == 0) {  // it runs in this thread
        hold.unlock();
        pool_.retries.pause_here(*task);
        hold.lock();
        return rooms_.dispatcher.place(task.get(), hold);
    }
    pool_.retries.run_again(task.get(), hold);
    rooms_.dispatcher.refill(hold);
}

}  // namespace sidestep::detail
