#include "pool_core.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <utility>

#include <sidestep/detail/call_times.hpp>
#include <sidestep/pool_errors.hpp>

#include "process_memory.hpp"
#include "spare_errors.hpp"
#include "sys/error.hpp"

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
      owner_pid_(::getpid()),
      shared_(options_),
      tasks_(options_, shared_, callbacks_),
      rooms_{options_,         mutex_,          *this,          tasks_.life,      tasks_.timers,
             tasks_.arguments, tasks_.task_end, tasks_.insight, tasks_.dispatcher},
      policies_(rooms_),
      supervision_(rooms_, shared_, policies_, tasks_.pace, owner_pid_),
      inline_lane_({*this, mutex_, tasks_.arguments, tasks_.task_end, tasks_.insight, options_.seed,
                    owner_pid_},
                   [this](PoolTask& task, const std::exception_ptr& error) {
                       return policies_.retries.retry_here(task, error);
                   }),
      wait_room_(mutex_, *this, *shared_.control, shared_.spin,
                 [this](Hold& hold) POOL_LOCKED { return drain(hold); }) {
    if (*options_.processes == 0) tasks_.dispatcher.add(inline_lane_);
}

PoolCore::~PoolCore() { SIDESTEP_ASSERT(!supervision_.supervisor.thread().joinable()); }

void PoolCore::start() {
    Supervising until_the_thread_does;
    WorkerStarter& starter = supervision_.starter;
    starter.save_hooks([this](std::size_t size) -> WorkerStarter::Block {
        BlockId block = allocate_argument(size);
        return {block, argument_data(block)};
    });
    supervision_.deaths.start();
    if (options_.max_memory_growth > 0 && !private_memory(owner_pid_))
        throw std::runtime_error(
            "PoolOptions::max_memory_growth cannot be watched: /proc/PID/statm cannot be read; "
            "mount "
            "the /proc of this pid namespace, or leave it out");
    if (*options_.processes > 0) starter.make_launcher();
    supervision_.supervisor.open();
    try {
        supervision_.fleet.start();
        supervision_.supervisor.start();
    } catch (...) {  // those that were started must not stay
        supervision_.fleet.discard_all();
        throw;
    }
}

std::vector<int> PoolCore::worker_pids() {
    require_owner();
    Lock lock(mutex_);
    return supervision_.fleet.pids();
}

// --- submitting --------------------------------------------------------------------------------

// Before the mutex is taken: in a forked copy a thread that exists no more may hold it for ever.
void PoolCore::require_owner() const {
    if (!owned_here())
        throw std::logic_error(
            "this pool belongs to the process that made it, and this is a forked copy: make a pool "
            "of its own here");
}

bool PoolCore::accepting() {
    if (!owned_here()) return false;
    Lock lock(mutex_);
    return tasks_.life.running();
}

void PoolCore::check_open() {
    require_owner();
    Lock lock(mutex_);
    tasks_.life.require_accepting();
}

void PoolCore::begin_map() {
    require_owner();
    Lock lock(mutex_);
    tasks_.life.begin_map();
}

void PoolCore::end_map() {
    if (!owned_here()) return;
    Hold hold(mutex_, *this);
    if (tasks_.life.end_map() && !tasks_.life.running()) hold.wake_waiters();
}

void PoolCore::submit(const PoolTaskRef& task, Completions* sink, bool begun) {
    require_owner();
    Hold hold(mutex_, *this);
    tasks_.life.require_accepting(begun);
    policies_.retries.expect(*task);
    tasks_.task_end.begin(*task);
    Dispatcher& dispatcher = tasks_.dispatcher;
    // A look at the clock costs a tenth of the shortest task: of those, few are looked at.
    bool is_long = dispatcher.task_ns() >= WorkerMeter::kTinyTaskNs;
    std::uint64_t number = task->serial;
    if (is_long || number % WorkerMeter::kTinyTasksForOne == 0)
        task->submitted_ns = steady_now_ns();
    task->sink = sink;
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
}

// A part of a chunk, for the stream that has that: also after close().
void PoolCore::submit_again(const PoolTaskRef& task) {
    require_owner();
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

bool PoolCore::drain(Hold& hold) { return tasks_.dispatcher.drain(tasks_.life.ending(), hold); }

bool PoolCore::running(PoolTask& task) {
    if (!owned_here()) return false;
    Hold hold(mutex_, *this);
    if (drain(hold)) hold.wake_waiters();
    return task.place == PoolTask::Place::lane && task.lane->front_runs() &&
           task.lane->task_at(0) == &task;
}

bool PoolCore::cancel(PoolTask& task, Cancel mode) {
    if (!owned_here()) return false;
    Hold hold(mutex_, *this);
    if (drain(hold)) hold.wake_waiters();
    return policies_.stopper.cancel(task, mode == Cancel::running_too, hold);
}

// --- memory ------------------------------------------------------------------------------------

BlockId PoolCore::allocate_argument(std::size_t size) {
    require_owner();
    Lock lock(mutex_);
    return tasks_.arguments.allocate(size);
}

void PoolCore::free_argument(BlockId block) noexcept {
    if (!owned_here()) return;
    Lock lock(mutex_);
    tasks_.arguments.free(block);
}

void PoolCore::free_result(WorkerMemory& memory, BlockId block) noexcept {
    if (!owned_here()) return;
    Hold hold(mutex_, *this);
    memory.take_back(block);
    // The queue to the worker is full: the rest follows when the worker has taken some.
    if (memory.owes()) tasks_.pace.want(false, hold);
}

}  // namespace sidestep::detail
