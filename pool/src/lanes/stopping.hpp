// A task that is being stopped, and what has to be kept until its worker is done with it.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>

#include <sidestep/detail/pool_task.hpp>

#include "task/failure_kind.hpp"
#include "task/hold.hpp"

namespace sidestep::inline v0::detail {

// The task is asked to end by its flag, then by SIGTERM, then by SIGKILL: the ladder (Stopper).
struct Stopping {
    enum class Step : unsigned char { asked, terminated, killed };
    Step step = Step::asked;
    std::chrono::steady_clock::time_point next_at{};
    std::uint64_t arguments = 0;  // a block that the task still reads,
    Leftover kept;                //   or these
    TokenUsePtr tokens;           // that it has
    PoolTask* task = nullptr;     // it is not done: it may be run again when the worker is free,
    FailureKind kind = FailureKind::error;
    std::exception_ptr error;  //   else this is its result
    std::uint64_t key = 0;     // of the task, which runs still
};

}  // namespace sidestep::detail
