// What a task has printed is out when its result is: a worker may be killed before its buffers are
// written at its end. Internal.
#pragma once

#include <cstdio>

namespace sidestep::inline v0::detail {

// Something waits in the buffer of stdout, which is also that of std::cout, unless it was told not
// to be (std::ios::sync_with_stdio). A look at two words.
inline bool stdout_waits() noexcept {
#if defined(__GLIBC__)
    return stdout->_IO_write_ptr != stdout->_IO_write_base;  // __fpending(), without the call
#else
    return true;
#endif
}

// Writes what waits in stdout, std::cout, std::clog, their wide twins, and any FILE of the task's
// own, unless another thread holds that. Does not throw; what cannot be written waits on. Costs
// some nanoseconds if nothing waits. Returns true if something waited elsewhere than in stdout.
bool flush_printed() noexcept;

}  // namespace sidestep::detail
