// Errors about a task that a lane has.
#pragma once

#include <exception>
#include <type_traits>
#include <utility>

#include "lanes/lane.hpp"
#include "task/attempts.hpp"

namespace sidestep::inline v0::detail {

template <class Error>
inline constexpr FailureKind kKindOf =
    std::is_same_v<Error, WorkerLost>    ? FailureKind::crash
    : std::is_same_v<Error, TaskTimeout> ? FailureKind::timeout
                                         : FailureKind::out_of_memory;

// An error of that kind, with what the lane says of the task and what add(details) adds; the spare
// one if there is no memory for it.
template <class Error, class Add>
std::exception_ptr error_about(const Lane& lane, const PoolTask& task,
                               const std::exception_ptr& spare, Add add) noexcept POOL_LOCKED {
    try {
        TaskError::Details details = lane.describe(task);
        tell_attempts(details, task, kKindOf<Error>);
        add(details);
        return std::make_exception_ptr(Error(std::move(details)));
    } catch (...) {
        return spare;
    }
}

}  // namespace sidestep::detail
