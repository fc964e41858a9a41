// How errors are made: one helper for failed system calls, one assertion that is always on.
#pragma once

#include <cerrno>
#include <exception>
#include <string>
#include <string_view>

namespace sidestep::inline v0 {

// Throws std::system_error: "<what>: <strerror>". `what` names the call and its object:
// throw_errno(errno, "memfd_create(ring)"). errno is the caller's to read, on the line after the
// call.
[[noreturn]] void throw_errno(int error, std::string_view what);

// This process, or the system, is short of descriptors or memory: the call says nothing about what
// it was asked for, and may succeed another time.
constexpr bool is_shortage(int error) noexcept {
    return error == EMFILE || error == ENFILE || error == ENOMEM || error == ENOBUFS;
}

// What an exception says, for a message that tells of it.
std::string text_of(const std::exception_ptr& error);

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line) noexcept;

}  // namespace sidestep

// A broken internal invariant: always on, ends the process with a message (a bug of ours).
#define SIDESTEP_ASSERT(condition) \
    ((condition) ? void(0) : ::sidestep::assertion_failed(#condition, __FILE__, __LINE__))
