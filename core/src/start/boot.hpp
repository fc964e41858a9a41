// What a child does first, however it was started: it receives one message that says where in the
// program to go on, arms its lifeline, if it has one, and goes there.
//
// The message and its descriptors come over the control socket, an inherited socket pair: no names.
// The child believes it if the kernel says that its parent made the socket, as the user that the
// child is (SO_PEERCRED), and if the place is one of the library's own few.
#pragma once

#include <cstdint>

#include "sys/fd.hpp"
#include "travel/module_table.hpp"

namespace sidestep::inline v0 {

// Takes over the process: never returns. Owns the control socket.
using BootMain = void (*)(Fd control);

// A place where a child may go on: a static object for each, made before the program's own, whose
// constructors may start children:
//     const BootEntry kWorkerEntry [[gnu::init_priority(200)]] (worker_main);
class BootEntry {
  public:
    explicit BootEntry(BootMain main) noexcept;
    BootEntry(const BootEntry&) = delete;
    BootEntry& operator=(const BootEntry&) = delete;
    static bool exists(const void* main) noexcept;

  private:
    const BootMain main_;
    const BootEntry* const next_;
};

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
