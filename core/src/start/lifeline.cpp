#include "start/lifeline.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>

#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

// False: refused; see errno.
bool send_on_close(int fd) {
    int flags = ::fcntl(fd, F_GETFL);
    return flags >= 0 && ::fcntl(fd, F_SETOWN, ::getpid()) == 0 &&
           ::fcntl(fd, F_SETFL, flags | O_ASYNC | O_NONBLOCK) == 0;
}

// This process is ours, from its first instruction on.
void let_sigio_kill() {
    ::signal(SIGIO, SIG_DFL);
    sigset_t only;
    sigemptyset(&only);
    sigaddset(&only, SIGIO);
    ::sigprocmask(SIG_UNBLOCK, &only, nullptr);
}

}  // namespace

bool parent_is_gone(int parent_pid) noexcept {
    int parent = ::getppid();
    return parent != parent_pid && parent != 0;
}

void arm_lifeline(int fd, int parent_pid) {
    // First: a pipe that is armed sends SIGIO until it is told otherwise.
    if (::fcntl(fd, F_SETSIG, SIGKILL) < 0) let_sigio_kill();
    if (!send_on_close(fd)) {
        int error = errno;
        if (::prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
            sys::throw_call(error,
                            "the child cannot be made to die with its parent: fcntl(F_SETOWN, "
                            "O_ASYNC) of its lifeline, and prctl(PR_SET_PDEATHSIG)");
    }
    // The parent may have died before that.
    pollfd entry = {.fd = fd, .events = 0, .revents = 0};
    if (::poll(&entry, 1, 0) > 0 || parent_is_gone(parent_pid)) ::_exit(1);
}

}  // namespace sidestep
