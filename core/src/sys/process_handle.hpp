// A process and its pidfd: to wait for it, to signal it, to see whether it has ended. Its number
// alone will not do for that: once the process is reaped, it may be another one's.
//
// Descriptor: Fd; or ParentFd, if a child that this process forks must not hold a copy.
// Ownership:  move-only, as the descriptor. Who started a child reaps it: nothing is waited for
//             when a handle goes.
// Threads:    as of a const Fd: what is const may be called in several at once.
// Errors:     std::system_error where the kernel refuses, unless it says noexcept.
#pragma once

#include <signal.h>

#include <utility>

#include "sys/fd.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::sys {

template <class Descriptor>
struct ProcessHandle {
    int pid = 0;
    Descriptor pidfd = {};

    // What poll(2) takes: readable when the process has ended. -1: there is none.
    int fd() const noexcept { return pidfd.get(); }
    explicit operator bool() const noexcept { return static_cast<bool>(pidfd); }

    // --- of any process ----------------------------------------------------------------------

    // With all its threads. It may still be unreaped.
    bool has_ended() const noexcept { return sys::has_ended(fd()); }
    // Sleeps until it has ended; false: the deadline came first.
    bool wait_for_end(const Deadline& deadline) const { return wait_for_exit(fd(), deadline); }
    // False: it is gone already.
    bool signal(int number) const { return pidfd_send_signal(fd(), number); }
    // 0, or the error: ESRCH if it is gone, EPERM if it is another user's (by now).
    int try_signal(int number) const noexcept { return sys::try_signal(fd(), number); }

    // --- of a child of this process ----------------------------------------------------------

    // Waits for its end, and reaps it. lost(): somebody else did that.
    ExitStatus wait() const { return wait_pidfd(fd(), true); }
    // Reaps it if it has ended, else running(). `usage` gets what it used.
    ExitStatus reap(struct rusage* usage = nullptr) const {
        return wait_pidfd(fd(), false, false, usage);
    }
    // The same, but leaves it unreaped, so that its number stays its own.
    ExitStatus peek() const { return wait_pidfd(fd(), false, true); }
    // By a signal, or by who traces it.
    bool is_stopped() const noexcept { return sys::is_stopped(fd()); }
    // For the group that it leads. Nothing happens if it was reaped (lost()): its number, which is
    // the group's, may be somebody else's.
    void signal_group(int number) const {
        if (pid > 0 && !peek().lost()) ::kill(-pid, number);
    }
};

// A process of this pid namespace, if there is one; `error` as of find_process().
inline ProcessHandle<Fd> find(int pid, int& error) noexcept {
    ProcessHandle<Fd> found{pid, Fd()};
    error = find_process(pid, found.pidfd);
    return found;
}

}  // namespace sidestep::sys
