// What is said of a task that belongs to another process.
#pragma once

#include <exception>
#include <stdexcept>

namespace sidestep::inline v0::detail {

// Nobody is told of the end of a task that listen() or add_callback() refuse and that is not done.
inline std::exception_ptr never_told() {
    return std::make_exception_ptr(std::logic_error(
        "this future belongs to the process that made it, and this is a forked copy, which is "
        "never told of its end"));
}

}  // namespace sidestep::detail
