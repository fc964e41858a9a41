// What a process of a job says to who started it.
#pragma once

#include <cerrno>
#include <cstdio>
#include <string>

#include "sys/sigpipe.hpp"

namespace sidestep::inline v0::detail {

// A line on stderr. That is a pipe to the launcher, as a rule, and it may be gone: who ends a job
// for that reason must not die of SIGPIPE first.
inline void complain(const std::string& text) noexcept {
    SigpipeGuard guard;
    if (std::fprintf(stderr, "sidestep: %s\n", text.c_str()) < 0 && errno == EPIPE) guard.raised();
}

}  // namespace sidestep::detail
