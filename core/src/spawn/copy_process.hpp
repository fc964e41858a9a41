// Making a copy of this process by a raw system call, with a pidfd: one ladder of calls, for
// kernels without the newer ones and for sandboxes that refuse them.
//
//     clone3(CLONE_PIDFD)       Linux 5.3; container profiles answer ENOSYS, older ones EPERM
//     clone(CLONE_PIDFD)        Linux 5.2; emulators of user programs answer EINVAL
//     clone, then pidfd_open    Linux 5.3
//
// Threads: thread-safe. Fork: no handler of pthread_atfork runs; fork_page.hpp is wiped.
#pragma once

#include <cstdint>

#include "sys/fd.hpp"
#include "sys/process_handle.hpp"

namespace sidestep::inline v0 {

struct Copied {
    int pid = -1;  // 0 in the child
    int pidfd = -1;
    int error = 0;   // of the last rung, if there is no child
    int killed = 0;  // a sibling that was made, and has no pidfd: only the parent can reap it
};

// `with_pidfd`: the rungs where the kernel gives the pidfd with the process. On the last one, who
// does not know CLONE_PIDFD may not know CLONE_VFORK either, and not wait for the child's exec.
enum class Rungs { with_pidfd, all };

// `flags`: CLONE_PARENT, CLONE_VFORK. `tid_address` is where the kernel writes the child's number
// in the child, and clears it at its end (PR_GET_TID_ADDRESS); 0: nowhere. No child stays if it
// fails, unless it is `killed`.
Copied copy_process(std::uint64_t flags, std::uint64_t tid_address, Rungs rungs) noexcept;

// A copy whose parent is this process's parent.
Copied copy_as_sibling(Rungs rungs) noexcept;

// fork_child(), with a pidfd. Where pidfd_open(2) is refused, another copy of the process makes the
// child: clone(2) gives a pidfd even there. Throws std::system_error.
// In the child, the pid is 0.
sys::ProcessHandle<Fd> fork_child_with_pidfd();

}  // namespace sidestep
