// What a process uses, in bytes, from /proc; 0 if it is gone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sidestep {

// Resident, without what it shares with others: cheap, and not exact.
std::size_t private_memory(int pid);
// The resident set, shared pages and all: never less than the proportional share.
std::size_t resident_memory(int pid);
// The proportional share (PSS): a page that n processes map counts one n-th. Takes the kernel up to
// milliseconds for a large process.
std::size_t proportional_memory(int pid);

// How often the kernel's OOM killer has struck on this machine, since it started.
std::uint64_t oom_kills();

}  // namespace sidestep
