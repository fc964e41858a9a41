#include "lanes/worker_process.hpp"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>

namespace sidestep::inline v0::detail {
namespace {

constexpr std::chrono::seconds kLifelineTime{5};  // from its end to the worker's, at most

}  // namespace

// The worker's process group, and the worker itself by its pidfd: it may have left its group, and a
// child of its may be there still. (SIGTERM comes once, if it leads its group.) Where this process
// may not signal it any more, having given up privileges, SIGKILL comes through the lifeline: the
// kernel sends that with the rights that the worker had when it armed it.
bool WorkerProcess::signal(int number) noexcept {
    int group = launched.pid;  // its number, and the group's, are reserved while it is unreaped
    bool in_group = ::getpgid(group) == group;
    bool group_got_it = ::kill(-group, number) == 0;
    if (number != SIGKILL && group_got_it && in_group) return false;
    int error = sys::try_signal(launched.pidfd.get(), number);
    if (number != SIGKILL || error == 0 || error == ESRCH) return false;
    launched.lifeline.reset();
    if (!gone_by) gone_by = sys::Clock::now() + kLifelineTime;
    return true;
}

}  // namespace sidestep::detail
