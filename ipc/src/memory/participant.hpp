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
//    Where the kernel does not tell (another pid namespace), the owner lives; and where it has no
//    start times for us (no /proc, or another namespace's), whoever has the pid now does.
//    But a word may have been written over, and then names nobody: an owner from another namespace
//    is believed only if somebody from another one has used the object (Homes).
// P3 A forked child is somebody else, however it was forked: its page with the id is wiped
//    (fork_page.hpp).
// P4 A word without a start time has a check of the pid in its place: zeros beside a living pid,
//    which a stray write leaves there, are no owner.
//
// Limits: a process that execs while it owns something keeps owning it until it ends. Without /proc
//         nobody tells pid namespaces apart: processes of several must not share then.
// Threads: all thread-safe.
#pragma once

#include <atomic>
#include <cstdint>

namespace sidestep::inline v0 {

using OwnerId = std::uint64_t;  // 0: nobody
inline constexpr OwnerId kUserBit = OwnerId(1) << 31;

// The calling process. Never 0, never with kUserBit.
OwnerId this_process() noexcept;

// False: the kernel says that the process has ended. Costs a few system calls.
bool is_alive(OwnerId owner) noexcept;

// From which namespaces an object is used: a word beside those that name owners. Zero at first.
class Homes {
  public:
    // By whoever is about to look at such words, or to write one.
    void enter(OwnerId self) noexcept {
        // Relaxed, as all of it: who comes from elsewhere changes it before it names itself, by an
        // operation that releases.
        if (word_.load(std::memory_order_relaxed) != tag(self)) enter_slowly(self);
    }
    // False: the process that the word names has ended, or there can be none.
    bool is_alive(OwnerId owner) const noexcept;

  private:
    static constexpr std::uint32_t kSeveral = 0x5eda11ed;
    // The namespace, 10 bits, and a check of 22: what was written over is none.
    static constexpr std::uint32_t tag(OwnerId owner) {
        auto domain = static_cast<std::uint32_t>(owner >> 54);
        return domain << 22 | (domain + 1) * 0x9e3779b1u >> 10;
    }
    static constexpr bool is_tag(std::uint32_t word) { return word == tag(OwnerId(word) << 32); }
    void enter_slowly(OwnerId self) noexcept;
    std::atomic<std::uint32_t> word_{0};
};

// The pid, as its own namespace has it.
constexpr int pid_of(OwnerId owner) noexcept { return static_cast<int>(owner & ((1u << 22) - 1)); }

// The calling thread; no thread of any process that ever shared memory with this one has the same.
std::uint64_t this_thread() noexcept;

}  // namespace sidestep
