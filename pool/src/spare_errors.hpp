// Errors that are made before they are needed: when memory is used up, none can be made, and yet a
// task has to be told that its worker died, or that its pool ends.
//
// Threads: thread-safe. They are shared by all tasks that get them.
#pragma once

#include <exception>
#include <new>
#include <string>

#include <sidestep/pool_errors.hpp>

namespace sidestep::inline v0::detail {

struct SpareErrors {
    std::exception_ptr no_memory;                       // std::bad_alloc
    std::exception_ptr lost, timed_out, out_of_memory;  // of a task of which nothing more is known
    std::exception_ptr host_lost;                       // likewise
    std::exception_ptr cancelled, terminated, shut_down, interrupted, ended,
        waited_in_vain;          // CancelledError
    std::exception_ptr unbegun;  // of a map's items
    std::exception_ptr broken;   // BrokenPool
};

// Made when the program is loaded, and never destroyed.
const SpareErrors& spare_errors() noexcept;

// What `make` returns; if it throws, that is if there is no memory for it, the spare.
template <class Make>
std::exception_ptr made_or(const std::exception_ptr& spare, Make make) noexcept {
    try {
        return make();
    } catch (...) {
        return spare;
    }
}

// The same for a BrokenPool with this text.
template <class MakeText>
std::exception_ptr broken_pool(MakeText make_text) noexcept {
    return made_or(spare_errors().broken,
                   [&] { return std::make_exception_ptr(BrokenPool(make_text())); });
}

}  // namespace sidestep::detail
