#include "fork_child.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <iostream>

#include "error.hpp"

namespace sidestep {
namespace {

void reset_signals() {
    for (int number = 1; number < NSIG; ++number) {
        switch (number) {
            case SIGSEGV:
            case SIGBUS:
            case SIGFPE:
            case SIGILL:
            case SIGABRT:
            case SIGTRAP:
            case SIGSYS:
                continue;
        }
        struct sigaction action;
        if (sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_IGN)
            signal(number, SIG_DFL);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
}

void flush_streams() {
    try {
        std::cout.flush();
    } catch (...) {  // a stream that throws is the application's
    }
    std::fflush(nullptr);
}

}  // namespace

int fork_child() {
    flush_streams();
    // Blocked, so that a signal for the new child waits until the application's handlers are gone.
    sigset_t all, former;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &former);
    int pid = ::fork();
    if (pid != 0) {
        int error = errno;
        pthread_sigmask(SIG_SETMASK, &former, nullptr);
        if (pid < 0) throw_errno(error, "fork");
        return pid;
    }
    reset_signals();
    return 0;
}

void discard_child(int pid) noexcept {
    if (pid <= 0) return;
    ::kill(pid, SIGKILL);
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
}

void enter_group(int group) noexcept {
    if (::setpgid(0, group) < 0)
        (void)::setpgid(0, 0);  // that group is gone, or not in our session
}

}  // namespace sidestep
