// What can go wrong with a task besides what the task itself throws.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include <sidestep/exit_status.hpp>

namespace sidestep {

// Base of what a pool says about itself.
class PoolError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// The worker died while it ran this task. The task may have run in part. Other tasks are not
// affected, and the worker has been replaced.
class WorkerLost : public PoolError {
  public:
    struct Details {
        int pid = 0;
        ExitStatus exit_status;
        unsigned worker_index = 0;
        std::uint64_t task = 0;          // its number in the pool, from 1
        std::string task_type;           // what kind of task, as the compiler spells it
        const void* function = nullptr;  // the function, if the callable is a pointer to one
        std::string note;                // further findings, or empty
    };
    explicit WorkerLost(Details details);

    // "worker 4211 died of signal 11 (SIGSEGV) while it ran task 17 (crash(int)); ..."
    const char* what() const noexcept override;
    int pid() const { return details().pid; }
    const ExitStatus& exit_status() const { return details().exit_status; }
    std::uint64_t task() const { return details().task; }
    unsigned worker_index() const { return details().worker_index; }

  private:
    struct Shared;  // the text is made when it is asked for: looking up a symbol takes milliseconds
    const Details& details() const;
    std::shared_ptr<Shared> shared_;
};

// The pool cannot go on: its workers die without getting anywhere, or cannot be started. Its tasks
// fail with this, and so does every later submit().
class BrokenPool : public PoolError {
  public:
    using PoolError::PoolError;
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
