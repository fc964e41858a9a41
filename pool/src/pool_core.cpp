#include "pool_core.hpp"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <utility>

#include <sidestep/detail/call_times.hpp>
#include <sidestep/pool_errors.hpp>

#include "place.hpp"
#include "process_memory.hpp"
#include "spare_errors.hpp"
#include "sys/error.hpp"
#include "task/record_memory.hpp"

namespace sidestep::inline v0::detail {

namespace {

constexpr std::uint64_t kTinyTasksForOneLook = 32;

// The arenas of arguments and of each worker's results, and one more: a worker maps the arguments'
// twice if it is a fork.
PoolOptions fitted(PoolOptions options) {
    options.arena_bytes = Segment::fitting(options.arena_bytes, WorkerMemory::kLeastArena,
                                           std::size_t(*options.processes) + 2);
    return options;
}

}  // namespace

PoolCore::PoolCore(const PoolOptions& options)
    : options_(fitted(options)),
      has_default_options_(options.task.says_anything()),
      shared_(options_),
      tasks_(options_, shared_, callbacks_),
      rooms_{options_,         mutex_,          *this,          tasks_.life,      tasks_.timers,
             tasks_.arguments, tasks_.task_end, tasks_.insight, tasks_.dispatcher},
      policies_(rooms_),
      hosts_(rooms_, {policies_.retries, policies_.chunks, policies_.end}),
      supervision_(rooms_, shared_, policies_, tasks_.pace, owner_.pid()),
      inline_lane_({*this, mutex_, tasks_.arguments, tasks_.task_end, tasks_.insight, options_.seed,
                    owner_.pid()},
                   [this](PoolTask& task, const std::exception_ptr& error) {
                       return policies_.retries.retry_here(task, error);
                   }),
      wait_room_(mutex_, *this, *shared_.control, shared_.spin,
                 [this](Hold& hold)
                     POOL_LOCKED { return tasks_.dispatcher.drain(tasks_.life.ending(), hold); }),
      desk_(rooms_, {owner_, policies_.retries, policies_.stopper}, wait_room_),
      memory_(owner_, rooms_, tasks_.pace),
      view_(rooms_, {owner_, supervision_.workers, supervision_.fleet, supervision_.supervisor,
                     hosts_, policies_.late}) {
    if (*options_.processes == 0) tasks_.dispatcher.add(inline_lane_);
}

// The last of its tasks goes, too: each refers to its pool.
PoolCore::~PoolCore() {
    SIDESTEP_ASSERT(!supervision_.supervisor.thread().joinable());
    RecordMemory::trim();
}

void PoolCore::start(const HostPlan& plan) {
    Supervising until_the_thread_does;
    WorkerStarter& starter = supervision_.starter;
    starter.save_hooks([this](std::size_t size) -> WorkerStarter::Block {
        BlockId block = memory_.allocate(size);
        return {block, memory_.data(block)};
    });
    supervision_.deaths.start();
    if (options_.max_memory_growth > 0 && !private_memory(owner_.pid()))
        throw std::runtime_error(
            "PoolOptions::max_memory_growth cannot be watched: /proc/PID/statm cannot be read; "
            "mount "
            "the /proc of this pid namespace, or leave it out");
    if (*options_.processes > 0) starter.make_launcher();
    supervision_.supervisor.open();
    try {
        if (starter.hooks_have_handles()) OtherHosts::require_no_hosts(plan);
        hosts_.open(plan, shared_from_this());  // they start their workers while this one does
        supervision_.fleet.start();
        supervision_.supervisor.start();
    } catch (...) {  // those that were started must not stay
        supervision_.fleet.discard_all();
        Lock lock(mutex_);
        hosts_.end(true);
        throw;
    }
}

void PoolCore::hosts_told(std::uint32_t lane, std::vector<HostEvent> events) {
    Hold hold(mutex_, *this);
    hosts_.told(lane, std::move(events), hold);
    if (!tasks_.life.ending()) tasks_.dispatcher.refill(hold);
    hold.wake_waiters();
}

// --- submitting --------------------------------------------------------------------------------

bool PoolCore::accepting() {
    if (!owned_here()) return false;
    Lock lock(mutex_);
    return tasks_.life.running();
}

void PoolCore::check_open() {
    owner_.require_here();
    Lock lock(mutex_);
    tasks_.life.require_accepting();
}

std::shared_ptr<void> PoolCore::take_place(const std::shared_ptr<PoolCore>& core) {
    core->owner_.require_here();
    if (core->options_.max_pending == 0 || core->in_own_thread()) return core;
    return Place<PoolCore>::take(core);
}

bool PoolCore::take_place() {
    Hold hold(mutex_, *this);
    if (is_full() && tasks_.dispatcher.drain(tasks_.life.ending(), hold)) hold.wake_waiters();
    if (is_full() && tasks_.life.running()) return false;
    ++places_taken_;  // of a pool that is closed, too: submit() says why
    return true;
}

void PoolCore::give_place_back() {
    if (!owned_here()) return;
    Hold hold(mutex_, *this);
    --places_taken_;
    if (!is_full()) hold.wake_waiters();
}

// The pool's own threads do not wait: what is to be done may be theirs to do.
void PoolCore::await_room(Hold& hold) {
    while (is_full() && !Place<PoolCore>::is_here(*this) && !in_own_thread()) {
        hold.unlock();
        auto may_go_on = [this]() POOL_LOCKED { return !is_full() || !tasks_.life.running(); };
        (void)desk_.wait(std::ref(may_go_on), {});
        hold.lock();
        tasks_.life.require_accepting();
    }
}

void PoolCore::begin_map() {
    owner_.require_here();
    Lock lock(mutex_);
    tasks_.life.begin_map();
}

void PoolCore::end_map() {
    if (!owned_here()) return;
    Hold hold(mutex_, *this);
    if (tasks_.life.end_map() && !tasks_.life.running()) hold.wake_waiters();
}

void PoolCore::look_again() {
    if (!owned_here()) return;
    Hold hold(mutex_, *this);
    hold.wake_waiters();
}

void PoolCore::submit(const PoolTaskRef& task, TaskSink* sink, bool begun) {
    owner_.require_here();
    Hold hold(mutex_, *this);
    tasks_.life.require_accepting(begun);
    if (is_full() && !begun && !sink) await_room(hold);
    if (has_hosts()) OtherHosts::require_no_handles(*task->argument_view().fds);
    policies_.retries.expect(*task);
    tasks_.task_end.begin(*task);
    Dispatcher& dispatcher = tasks_.dispatcher;
    // A look at the clock costs a tenth of the shortest task: of those, few are looked at.
    bool is_long = dispatcher.task_ns() >= WorkerMeter::kTinyTaskNs;
    std::uint64_t number = task->serial;
    if (is_long || number % WorkerMeter::kTinyTasksForOne == 0) task->time_ns = steady_now_ns();
    if (sink) task->make_more().sink = sink;
    PoolTaskRef reference = task;  // the pool's own, until it is done
    supervision_.fleet.wake_if_asleep(hold);
    dispatcher.place(reference.get(), hold);
    (void)reference.release();
    // Results are looked for now and then when tasks are tiny: what a look costs is the cache line
    // of the slot that the worker is at.
    if ((is_long || number % kTinyTasksForOneLook == 0) && dispatcher.drain_last_used(hold)) {
        dispatcher.refill(hold);
        if (!wait_room_.is_empty()) hold.wake_waiters();
    }
    if (task->tokens() && *options_.processes == 0) await_tokens(*task, hold);
}

// Without workers: another thread has them, and runs what waits for them when it gives them back.
void PoolCore::await_tokens(const PoolTask& task, Hold& hold) {
    if (task.done() || in_own_thread()) return;
    hold.unlock();
    (void)desk_.wait([&] { return task.done(); }, {});
    hold.lock();
}

// Nothing of it is a worker's business yet.
void PoolCore::submit_late(const PoolTaskRef& task, std::unique_ptr<LateArguments> arguments) {
    owner_.require_here();
    LateTasks& late = policies_.late;
    std::shared_ptr<Dependents::Waiting> waiting;
    {
        Hold hold(mutex_, *this);
        tasks_.life.require_accepting();
        await_room(hold);
        if (has_hosts()) OtherHosts::require_no_handles(arguments->descriptors());
        policies_.retries.expect(*task);
        waiting = late.add(*task, std::move(arguments));
        tasks_.task_end.begin(*task);
        PoolTaskRef reference = task;  // the pool's own, until it is done
        (void)reference.release();
        supervision_.fleet.wake_if_asleep(hold);
    }
    late.wait_for_needs(waiting);
}

// A part of a chunk, for the stream that has that: also after close().
void PoolCore::submit_again(const PoolTaskRef& task) {
    owner_.require_here();
    Hold hold(mutex_, *this);
    policies_.chunks.add_part(task);
    if (!tasks_.life.allows_retries() || tasks_.life.sealed())
        return tasks_.task_end.cancel(task.get(), spare_errors().ended, hold);
    if (*options_.processes == 0) {  // it runs in this thread
        hold.unlock();
        policies_.retries.pause_here(*task);
        hold.lock();
        return tasks_.dispatcher.place(task.get(), hold);
    }
    policies_.retries.run_again(task.get(), hold);
    tasks_.dispatcher.refill(hold);
}

}  // namespace sidestep::detail
