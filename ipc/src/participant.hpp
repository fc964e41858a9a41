// Who owns what, across processes: names for processes and threads that are never reused, and the
// question whether their bearer still lives.
//
// An OwnerId is one word, so that a lock, a permit or a lease can name its owner in the same CAS
// that takes it, and anyone who meets the word can ask the kernel about the owner: there is no
// table to register in, nothing to clean up, and no limit on the number of processes.
//
//     bits  0..21  pid                     (PID_MAX_LIMIT is 2^22)
//     bits 22..30  start time, low part    (clock ticks since boot, /proc/<pid>/stat field 22)
//     bit  31      left to the word's user ("somebody waits")
//     bits 32..53  start time, high part
//     bits 54..63  which pid and time namespace the two belong to (a hash)
//
// P1 pid and start time together are never reused: a pid would have to come round within one tick.
// P2 Only the kernel declares death: the pid is gone, or belongs to a process that started at
//    another time, or its pidfd says that all its threads have ended. A stopped process lives.
//    Where the kernel does not tell (another pid namespace, no /proc), the owner lives.
// P3 A forked child is somebody else, however it was forked: its page with the id is wiped.
//
// Limits: a process that execs while it owns something keeps owning it until it ends.
// Threads: all thread-safe.
#pragma once

#include <cstdint>

namespace sidestep {

using OwnerId = std::uint64_t;  // 0: nobody
inline constexpr OwnerId kUserBit = OwnerId(1) << 31;

// The calling process. Never 0, never with kUserBit.
OwnerId this_process() noexcept;

// False: the kernel says that the process has ended. Costs a few system calls.
bool is_alive(OwnerId owner) noexcept;

// The pid, as its own namespace has it.
inline int pid_of(OwnerId owner) noexcept { return static_cast<int>(owner & ((1u << 22) - 1)); }

// The calling thread; no thread of any process that ever shared memory with this one has the same.
std::uint64_t this_thread() noexcept;

}  // namespace sidestep
