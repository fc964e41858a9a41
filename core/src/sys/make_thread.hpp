// std::thread, with an error that says more than "Operation not permitted".
#pragma once

#include <signal.h>

#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

#include "sys/error.hpp"

namespace sidestep::inline v0 {

// What made a thread impossible, and the remedy. EPERM: the C library tries clone3 first, and goes
// on with clone only where that is answered with ENOSYS; nothing can be done about it from in here.
[[noreturn]] inline void throw_no_thread(int error) {
    const char* why = error == EPERM
                          ? "pthread_create: the container refuses clone3 with EPERM, where "
                            "the C library needs ENOSYS: use a newer container runtime, or "
                            "a seccomp profile that knows clone3"
                      : error == EAGAIN ? "pthread_create (a limit on threads: ulimit -u, or the "
                                          "cgroup's pids.max)"
                                        : "pthread_create";
    throw_errno(error, why);
}

template <class Body>
std::thread make_thread(Body&& body) {
    try {
        return std::thread(std::forward<Body>(body));
    } catch (const std::system_error& error) {
        throw_no_thread(error.code().value());
    }
}

// One that takes no signals that come from outside: they are the application's. (What a thread does
// to itself, as SIGSEGV, it gets.)
template <class Body>
std::thread make_service_thread(Body&& body) {
    struct Blocked {
        Blocked() {
            sigset_t most;
            sigfillset(&most);
            for (int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS})
                sigdelset(&most, own);
            pthread_sigmask(SIG_SETMASK, &most, &before);
        }
        ~Blocked() { pthread_sigmask(SIG_SETMASK, &before, nullptr); }
        sigset_t before;
    } inherited_by_the_new_one;
    return make_thread(std::forward<Body>(body));
}

}  // namespace sidestep
