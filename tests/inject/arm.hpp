// How a program under the injector says from when on its calls count.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

namespace test {

// A system call that no kernel has: the injector answers it, and without an injector it does
// nothing.
inline constexpr unsigned kArm = 9999;

inline void arm_injector(bool on) { syscall(kArm, on ? 1L : 0L); }

}  // namespace test
