// What a child does first, however it was started: it receives one message that says where in the
// program to go on, arms its lifeline, if it has one, and goes there.
//
// The message and its descriptors come over the control socket, an inherited socket pair: no names.
#pragma once

#include <cstdint>

#include "fd.hpp"
#include "module_table.hpp"

namespace sidestep {

// Takes over the process: never returns. Owns the control socket.
using BootMain = void (*)(Fd control);

struct BootMessage {
    static constexpr std::uint64_t kMagic = 0x746f6f6273736473;
    std::uint64_t magic = kMagic;
    ModuleAddress entry;  // of a BootMain
    std::int32_t parent_pid = 0;
    std::uint32_t has_lifeline = 0;
};

// The variable through which a spawned child is recognised; its value is the control socket's fd.
inline constexpr const char* kBootVariable = "SIDESTEP_BOOT_FD";

// This process was started by boot(), or is a copy of one that was: a worker, or a Process.
bool is_booted_child() noexcept;

// The child's first steps, on the control socket it was given. Ends the process, always.
[[noreturn]] void boot(Fd control) noexcept;

// Ends a child process of ours: runs its exit hooks, flushes stdio and the standard streams, runs
// no destructors of static objects (they belong to the program that we are a copy of), and leaves.
[[noreturn]] void leave_process(int exit_code) noexcept;

}  // namespace sidestep
