// Privileges that a program gets from its file: set-uid, set-gid, file capabilities.
//
// Who executes such a program may do less than the program, and hands it its environment and its
// descriptors. So a program that was executed that way takes no orders from a variable (init.cpp),
// and is not started again as a worker (launch.cpp): that one could not tell its honest parent from
// such a caller. The kernel's word for it is AT_SECURE (getauxval(3)); this is where it is asked.
#pragma once

#include <string>

namespace sidestep::inline v0 {

// This process got privileges when its program was executed.
bool has_file_privileges() noexcept;

// Why a child of this process that executes `program` would be such a program, as the kernel
// decides it (execve(2), capabilities(7)): as the end of a sentence. Empty: it would not.
std::string why_file_gives_privileges(const std::string& program);

}  // namespace sidestep
