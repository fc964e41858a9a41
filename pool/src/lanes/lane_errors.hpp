// Errors about a task that a lane has.
#pragma once

#include <exception>
#include <utility>

#include "lanes/lane.hpp"

namespace sidestep::inline v0::detail {

// An error of that kind, with what the lane says of the task and what add(details) adds; the spare
// one if there is no memory for it.
template <class Error, class Add>
std::exception_ptr error_about(const Lane& lane, const PoolTask& task,
                               const std::exception_ptr& spare, Add add) noexcept POOL_LOCKED {
    try {
        TaskError::Details details = lane.describe(task);
        add(details);
        return std::make_exception_ptr(Error(std::move(details)));
    } catch (...) {
        return spare;
    }
}

}  // namespace sidestep::detail
