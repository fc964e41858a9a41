// What must not be left out is done again until this process has what that takes.
//
// Threads: it sleeps meanwhile, so not with a mutex held that others need.
#pragma once

#include <cerrno>
#include <chrono>
#include <new>
#include <system_error>
#include <thread>

#include "sys/error.hpp"

namespace sidestep::inline v0::detail {

inline void pause_for_memory() { std::this_thread::sleep_for(std::chrono::milliseconds(5)); }

// Until there is memory for it. Nothing is done by a step that throws std::bad_alloc.
template <class Step>
auto insist_on_memory(const Step& step) {
    for (;;) {
        try {
            return step();
        } catch (const std::bad_alloc&) {
        }
        pause_for_memory();
    }
}

// What else may come back: descriptors, memory of the kernel, processes, threads.
inline bool may_pass(const std::system_error& error) noexcept {
    const int code = error.code().value();
    return is_shortage(code) || code == EAGAIN;
}

template <class Step>
auto insist_while_short(const Step& step) {
    for (;;) {
        try {
            return insist_on_memory(step);
        } catch (const std::system_error& error) {
            if (!may_pass(error)) throw;
        }
        pause_for_memory();
    }
}

// Whatever the system says.
template <class Step>
auto insist(const Step& step) {
    for (;;) {
        try {
            return insist_on_memory(step);
        } catch (const std::system_error&) {
        }
        pause_for_memory();
    }
}

}  // namespace sidestep::detail
