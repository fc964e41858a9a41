// What a task can ask about itself while it runs. (For the pool that runs it: task_pool.hpp.)
//
// Threads: the answers are those of the task that runs in the calling thread. In any other thread:
//          false, 0, -1, nothing; random_seed() is the same number there each time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <sidestep/timeout.hpp>

namespace sidestep::inline v0 {

namespace detail {

class ProgressTeller;
class NestedPool;

// What stands in TaskContext::stop_number when this attempt at the task is asked to stop, and what
// it returns counts (TaskOptions::soft_timeout). For one that is to end now it is the number alone.
constexpr std::uint64_t soft_stop(std::uint64_t number, unsigned attempt) noexcept {
    return std::uint64_t(1) << 63 | std::uint64_t(attempt) << 47 |
           (number & ((std::uint64_t(1) << 47) - 1));
}

// What a thread runs: set by whoever runs tasks in it. Internal.
struct TaskContext {
    std::uint64_t number = 0;
    std::uint64_t item = 0;  // in a map: the item's place in the input
    std::uint64_t seed = 0;
    unsigned attempt = 0;
    int worker = -1;
    const std::atomic<std::uint64_t>* stop_number =
        nullptr;                                            // the task with this number is to stop
    const std::atomic<std::uint32_t>* stop_flag = nullptr;  // this one is, if it is not 0
    // For a chunk of a map.
    // Which are to be run; 0, 0: all, or it is none (in a worker).
    std::uint32_t items_begin = 0, items_end = 0;
    ProgressTeller* progress = nullptr;                // told after each item (ChunkProgress)
    std::atomic<std::uint64_t>* started_ns = nullptr;  // told before each item
    bool prints_elsewhere = false;  // than to stdout, or what leads there (flush_printed())
    bool tells_item = false;        // of map_reduce: what it throws is told with `item`
    // The pool that runs it, which lives at least as long (this_task::pool()); null: none.
    const std::shared_ptr<NestedPool>* pool = nullptr;
    const TaskContext* outer = nullptr;  // of a task that runs inside another one, which waits

    bool stop_requested() const noexcept {
        // Relaxed: a request, nothing hangs on it but the task's own decision.
        if (stop_number)
            return number != 0 && stop_number->load(std::memory_order_relaxed) == number;
        if (outer) return outer->stop_requested();
        return stop_flag && stop_flag->load(std::memory_order_relaxed) != 0;
    }
    // That, or it is asked to stop.
    bool stop_wanted() const noexcept {
        if (stop_requested()) return true;
        if (outer) return outer->stop_wanted();
        return stop_number && number != 0 &&
               stop_number->load(std::memory_order_relaxed) == soft_stop(number, attempt);
    }
};
// Never null.
TaskContext* task_context() noexcept;
// The one that others run inside of, if there is one.
const TaskContext& outermost_task() noexcept;
// For the time of this object, the thread runs that task.
class TaskScope {
  public:
    explicit TaskScope(const TaskContext& context) noexcept;
    ~TaskScope();
    TaskScope(const TaskScope&) = delete;
    TaskScope& operator=(const TaskScope&) = delete;

  private:
    TaskContext before_;
};

}  // namespace detail

namespace this_task {

// Somebody waits for this task to end: it was cancelled, or its time is up. A task that looks at it
// now and then and returns keeps its worker; one that does not is ended by a signal
// (PoolOptions::stop_grace). Or its TaskOptions::soft_timeout is over: then what it returns counts.
// A load from memory.
bool stop_requested() noexcept;
// Sleeps, but no longer than until the task is to stop. True: to the end. Anywhere else than in a
// task, and in one of a pool without workers, it just sleeps.
bool sleep_for(Timeout time) noexcept;

// The task's number in its pool, from 1; the items of a map share one.
std::uint64_t number() noexcept;
// In a map or a stream: the item's place in the input, from 0. Nothing elsewhere.
std::optional<std::uint64_t> item() noexcept;
// 1 when it runs for the first time; more when it is run again (TaskOptions::retry).
unsigned attempt() noexcept;

// A seed for this task's random numbers, made from PoolOptions::seed and the task's number, in a
// map from the item's place in the input: the same in each run of the program, whichever worker it
// runs in. (SplitMix64: Steele, Lea, Flood, OOPSLA 2014.)
std::uint64_t random_seed() noexcept;

// The name of the machine that the caller runs on, in a task or not: what uname(2) says.
const std::string& host();

}  // namespace this_task

namespace this_worker {

// Which worker of its pool this is, from 0; one that is replaced keeps its index. -1 elsewhere.
int index() noexcept;

// An object of type T that this worker keeps between its tasks; made, by its constructor without
// arguments, when it is first asked for: one for each type and thread (of a ThreadPool each thread
// is a worker, and has its own). A worker process that leaves does not destroy it: what is to be
// closed, close in PoolOptions::finalizer.
template <class T>
T& local() {
    thread_local T value{};
    return value;
}

}  // namespace this_worker

}  // namespace sidestep
