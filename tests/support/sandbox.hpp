// Children in a sandbox of their own: calls refused, no /proc, or another pid namespace's.
#pragma once

#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <exception>
#include <initializer_list>

#include "refuse.hpp"

namespace test {

// Runs `body` in a fork of this process and returns its result; 99 for an exception (which is
// printed), minus the signal that it died of. No Catch2 macro may be used there.
template <class Body>
int in_sandbox(Body body) {
    pid_t pid = ::fork();
    if (pid == 0) {
        int code = 99;
        try {
            code = body();
        } catch (const std::exception& error) {
            std::fprintf(stderr, "in a sandbox: %s\n", error.what());
        }
        ::_exit(code);
    }
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// The same with calls refused; 98 if that could not be arranged.
template <class Body>
int where_refused(std::initializer_list<Refusal> refusals, Body body) {
    return in_sandbox([&] { return refuse({refusals.begin(), refusals.size()}) ? 98 : body(); });
}

// A namespace; where only root may have one, in a user namespace of its own.
inline bool enter_namespace(int flags) {
    return ::unshare(flags) == 0 || ::unshare(flags | CLONE_NEWUSER) == 0;
}

template <class Body>
int without_proc(Body body) {
    return in_sandbox([&] {
        bool hidden = enter_namespace(CLONE_NEWNS) &&
                      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                      ::mount("none", "/proc", "tmpfs", 0, nullptr) == 0;
        return hidden ? body() : 98;
    });
}

// As PID 1 of a pid namespace, while /proc is that of the outer one.
template <class Body>
int in_foreign_proc(Body body) {
    return in_sandbox([&] { return enter_namespace(CLONE_NEWPID) ? in_sandbox(body) : 98; });
}

}  // namespace test
