// pthread_exit() and pthread_cancel() unwind a thread's stack like an exception, except that nobody
// may keep it. Internal.
//
// libstdc++ has a type for it, libc++ has none; both have no exception_ptr of it.
#pragma once

#include <exception>

namespace sidestep::inline v0::detail {

// The first statement in a `catch (...)` that keeps what it caught.
inline void pass_on_forced_unwind() {
    if (!std::current_exception()) throw;
}

}  // namespace sidestep::detail
