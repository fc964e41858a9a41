#include "spawn/fork_child.hpp"

#include <signal.h>
#include <stdio_ext.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "sys/error.hpp"
#include "sys/printed.hpp"

namespace sidestep::inline v0 {
namespace {

// SIG_DFL where there was no handler.
struct sigaction handlers_at_init[NSIG] = {};
bool handlers_noted = false;

bool is_crash(int signal) {
    for (int crash : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS})
        if (signal == crash) return true;
    return false;
}

void reset_signals() {
    for (int number = 1; number < NSIG; ++number) {
        if (!handlers_noted && is_crash(number)) continue;
        struct sigaction action;
        if (sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_IGN)
            sigaction(number, &handlers_at_init[number], nullptr);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
}

constexpr SignalBits bit(int signal) { return SignalBits(1) << (signal - 1); }

}  // namespace

void note_handlers_at_init() noexcept {
    for (int number = 1; number < NSIG; ++number) {
        struct sigaction action;
        bool handled = sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_IGN &&
                       action.sa_handler != SIG_DFL;
        if (handled) handlers_at_init[number] = action;
    }
    handlers_noted = true;
}

SignalBits ignored_signals() noexcept {
    SignalBits ignored = 0;
    for (int number = 1; number < NSIG; ++number) {
        struct sigaction action;
        if (sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN)
            ignored |= bit(number);
    }
    return ignored;
}

void ignore_signals(SignalBits wanted, SignalBits now) noexcept {
    for (int number = 1; number < NSIG; ++number)
        if (((wanted ^ now) & bit(number)) != 0)
            ::signal(number, (wanted & bit(number)) != 0 ? SIG_IGN : SIG_DFL);
}

int fork_child() {
    (void)sys::write_printed();
    // Blocked, so that a signal for the new child waits until the application's handlers are gone.
    sigset_t all, former;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &former);
    int pid = ::fork();
    if (pid != 0) {
        int error = errno;
        pthread_sigmask(SIG_SETMASK, &former, nullptr);
        if (pid < 0)
            throw_errno(error, error == EAGAIN ? "fork (a limit on processes: ulimit -u, or the "
                                                 "cgroup's pids.max)"
                                               : "fork");
        return pid;
    }
    reset_signals();
    ::__fpurge(stdin);  // what the parent has read ahead is its own
    sys::drop_printed();
    return 0;
}

void discard_child(int pid) noexcept {
    if (pid <= 0) return;
    // Of another user it may be, and then it ends by itself: nobody has its sockets any more.
    (void)::kill(pid, SIGKILL);
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
}

bool reap_group(int group) noexcept {
    for (;;) {
        siginfo_t ended = {};
        int result;
        do result = ::waitid(P_PGID, static_cast<id_t>(group), &ended, WEXITED | WNOHANG | WNOWAIT);
        while (result < 0 && errno == EINTR);
        if (result < 0) return true;  // ECHILD
        if (ended.si_pid == 0) return false;
        // The number is free again and somebody's, whose status is not for us.
        if (ended.si_pid == group) return true;
        (void)::waitid(P_PID, static_cast<id_t>(ended.si_pid), &ended, WEXITED | WNOHANG);
    }
}

void enter_group(int group) noexcept {
    if (::setpgid(0, group) < 0)
        (void)::setpgid(0, 0);  // that group is gone, or not in our session
}

}  // namespace sidestep
