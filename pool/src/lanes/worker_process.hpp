// The process of a worker, from its launch until it is reaped.
#pragma once

#include "start/launch.hpp"
#include "sys/parent_fd.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

// Plain data, but for the signal. Threads: the caller serialises.
struct WorkerProcess {
    int pid() const { return launched.pid; }
    int control() const { return launched.control.get(); }

    // SIGKILL comes in any case, if need be when the lifeline closes (gone_by is set then: the
    // caller sees to it that somebody looks). True: it was closed now.
    bool signal(int number) noexcept;

    Launched launched;
    // The worker writes to it when the supervisor is wanted. Nobody reads: the supervisor hears of
    // each write (EPOLLET), so what a task does to it is no matter.
    ParentFd bell;
    sys::Deadline leave_by;    // it was asked to leave; if it is still there then, it is killed
    sys::Deadline cut_off_at;  // its socket is closed; if it lives on then, it is replaced
    sys::Deadline gone_by;     // nothing but its lifeline could end it; then the pool gives up
};

}  // namespace sidestep::detail
