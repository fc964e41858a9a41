// A /dev/shm of a test's own, with users of its own: in a mount namespace, never the system's.
#pragma once

#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <exception>
#include <string>

#include "processes.hpp"

namespace test {

inline constexpr unsigned kRoot = 0, kAlice = 54321, kMallory = 54322;

// Runs f, which returns a text, in a child; the text, or how the child ended. (f reports by it: a
// child has no test framework.)
template <class F>
std::string in_child(F f) {
    SharedPage<std::array<char, 2048>> text;
    Child child([&] {
        try {
            std::snprintf(text->data(), text->size(), "%s", f().c_str());
        } catch (const std::exception& error) {
            std::snprintf(text->data(), text->size(), "threw: %s", error.what());
        }
    });
    int code = child.wait();
    return code == 0 ? text->data() : "the child ended with " + std::to_string(code);
}

// The same, as a user. Requires: root.
template <class F>
std::string as_user(unsigned user, F f) {
    return in_child([&]() -> std::string {
        if (user != kRoot && (::setresgid(user, user, user) < 0 || ::setresuid(user, user, user)))
            return "cannot become the user";
        ::prctl(PR_SET_DUMPABLE, 1);
        return f();
    });
}

// The same as root, with an empty /dev/shm. What is tried there has no other place: run as root.
template <class F>
std::string in_private_shm(F f) {
    return in_child([&]() -> std::string {
        if (::geteuid() != 0 || ::unshare(CLONE_NEWNS) < 0 ||
            ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0 ||
            ::mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777,size=64m") < 0)
            return "needs root, to have users and a /dev/shm of its own";
        return f();
    });
}

}  // namespace test
