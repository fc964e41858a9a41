// What can go wrong with a task besides what the task itself throws.
//
// Threads: values, whose copies share their text; what() is thread-safe.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/exit_status.hpp>
#include <sidestep/task_output.hpp>

namespace sidestep::inline v0 {

namespace detail {
struct TaskErrorAccess;
class AskedStack;
}

// Base of what a pool says about itself.
class PoolError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// What happened to one task alone, in which worker. what() begins with one line that says all of
// it: what befell which worker, item and task, what was found out, what to do. Of WorkerLost and
// TaskTimeout eight lines at most may follow, "    in f(int) at file.cpp:12", the innermost
// function first (stack() has all of them). For a log with a line for each error: summary(). The
// text is made when it is asked for: looking up a function's name takes milliseconds.
class TaskError : public PoolError {
  public:
    enum class OfMap : unsigned char { no, processes, threads };
    struct Details {
        int pid = 0;  // of the worker
        unsigned worker_index = 0;
        std::uint64_t task = 0;             // its number in the pool, from 1
        std::string task_type;              // what kind of task, as the compiler spells it
        std::string name;                   // TaskOptions::name
        const void* function = nullptr;     // the function, if the callable is a pointer to one
        std::optional<std::uint64_t> item;  // of a map: its place in the input, from 0
        ExitStatus exit_status;             // WorkerLost
        // Code addresses, the innermost first. WorkerLost, and a TaskTimeout of another host's.
        std::vector<const void*> stack;
        std::shared_ptr<const detail::AskedStack> asked_stack;  // TaskTimeout: where to look for it
        std::string note;          // WorkerLost: further findings, or empty
        bool oom_killed = false;   // WorkerLost: see there
        std::uint64_t limit = 0;   // TaskTimeout: nanoseconds; OutOfMemory: bytes
        OfMap of_map = OfMap::no;  // TaskTimeout: whose limit it is MapOptions::deadline
        std::uint64_t used = 0;    // OutOfMemory: bytes
        TaskOutput output;         // that was captured until then
        std::string host;          // empty: this one
        // How often it was run, this time included (0: it is not known), of how often it could be.
        unsigned attempts = 0, most_attempts = 0;
        // WorkerLost, OutOfMemory: that Retry::max_crashes (max_out_of_memory) left it no more.
        std::optional<unsigned> retry_limit;
    };

    const char* what() const noexcept override;
    // The first line of what(): without the stack. (What a name or a text in it has of control
    // characters are blanks.)
    std::string summary() const;
    int pid() const { return details().pid; }
    std::uint64_t task() const { return details().task; }
    unsigned worker_index() const { return details().worker_index; }
    std::optional<std::uint64_t> item() const { return details().item; }
    // TaskOptions::name; empty: it has none.
    const std::string& name() const { return details().name; }
    // How often the task was run, this time included, or the item of a map. With TaskOptions::retry
    // that may be more than 1; then what() says so, and whether it was Retry::max_crashes or
    // max_out_of_memory that left it no more attempts. 0: it is not known (MapOptions::deadline).
    unsigned attempts() const { return details().attempts; }
    // What the task had written to stdout and stderr, if PoolOptions::output captures that; in a
    // map, since its chunk began.
    const TaskOutput& output() const { return details().output; }
    // Where its worker was, in a pool over several hosts (cluster.hpp); empty: on this one.
    const std::string& host() const { return details().host; }

  protected:
    friend struct detail::TaskErrorAccess;
    using Describe = std::string (*)(const Details& details, const std::string& name);
    TaskError(const char* text, Details details, Describe describe);
    const Details& details() const;

  private:
    struct Shared;
    std::shared_ptr<Shared> shared_;
};

// The worker died while it ran this task. The task may have run in part. Other tasks are not
// affected, and the worker has been replaced.
class WorkerLost : public TaskError {
  public:
    // "worker 4211 died of signal 11 (SIGSEGV) while it ran task 17 (crash(int)); ..."
    explicit WorkerLost(Details details);
    const ExitStatus& exit_status() const { return details().exit_status; }
    // The functions that it was in when the signal came, the innermost first: "crash(int)", then
    // what called that, as far as the task; inlined ones, too, and "crash(int) at file.cpp:12", if
    // the program has g++'s debug information (-g). Without the library's frames, and what
    // std::invoke and its like are made of. Empty if it was SIGKILL, or the task has a handler of
    // its own for the signal. (what() has the first of them, the address that was reached for, and
    // whether that looks like the end of the stack.)
    std::vector<std::string> stack() const;
    // It was killed by SIGKILL, and the kernel's OOM killer has struck on this machine meanwhile.
    bool oom_killed() const { return details().oom_killed; }
};

// The task ran longer than TaskOptions::timeout, and was stopped. It may have run in part. Or its
// map's deadline came (MapOptions::deadline): then item() is the first that was not finished, and
// task() the task that had it, 0 if none had.
class TaskTimeout : public TaskError {
  public:
    explicit TaskTimeout(Details details);
    std::chrono::nanoseconds timeout() const {
        return std::chrono::nanoseconds(static_cast<std::int64_t>(details().limit));
    }
    // The functions that it was in then, as WorkerLost::stack() has them; what() has the first of
    // them, too. The worker is asked by SIGURG, whose handler writes them down, also in the middle
    // of other people's code. Empty if it does not answer before it ends, nor within a tenth of a
    // second if it is asked for before: the task has blocked the signal or handles it itself, the
    // kernel does not let go of it, or it is stopped; and in a ThreadPool, which cannot ask.
    std::vector<std::string> stack() const;
};

// The task's worker used more than TaskOptions::memory_limit, and was killed; the pool goes on. Or
// nobody could tell what it used (no /proc): a limit is not left out in silence.
class OutOfMemory : public TaskError {
  public:
    explicit OutOfMemory(Details details);
    std::size_t limit() const { return details().limit; }
    std::size_t used() const { return details().used; }  // 0: it is not known
};

// The pool cannot go on: its workers die without getting anywhere, or cannot be started. Its tasks
// fail with this, and so does every later submit(). Where a worker crashed, in its initializer say,
// the stack follows in what(), as in WorkerLost's.
class BrokenPool : public PoolError {
  public:
    using PoolError::PoolError;
};

// The host that had this task was lost: cut off, or its agent died (cluster.hpp). The task may have
// run, in part or as a whole. Nothing is known of what it did.
class HostLost : public PoolError {
  public:
    HostLost(std::string host, const std::string& what) : PoolError(what), host_(std::move(host)) {}
    const std::string& host() const { return host_; }

  private:
    std::string host_;
};

// A result was set twice, or for a task that was cancelled.
class InvalidStateError : public std::logic_error {
  public:
    using std::logic_error::logic_error;
};

// The task was cancelled before it had a result, or its pool was terminated.
class CancelledError : public PoolError {
  public:
    using PoolError::PoolError;
};

// get(timeout): the result was not there in time. The task goes on.
class TimeoutError : public PoolError {
  public:
    using PoolError::PoolError;
};

}  // namespace sidestep
