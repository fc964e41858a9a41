// Whether /proc speaks of this process's own pid namespace.
//
// After `unshare --pid` without a new mount, or where another namespace's /proc was mounted into a
// container, the numbers there are those of other processes: what they say about the bearers of our
// numbers is not true of ours. Then it is as if there were no /proc.
//
// Threads: thread-safe. Fork: a child looks for itself.
#pragma once

namespace sidestep::inline v0 {

// False: it is not mounted, or not ours. Looks once in the life of a process; does not allocate.
// /proc/self and /proc/thread-self need no such question: the kernel resolves them for the caller.
bool proc_is_ours() noexcept;

}  // namespace sidestep
