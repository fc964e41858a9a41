// The page of this process that a forked child finds empty: who looks there learns, without a
// system call, that it is somebody else now.
//
// Fork:      the kernel empties it however the child was forked (MADV_WIPEONFORK, Linux 4.14). So
//            does fork(2) (pthread_atfork), and who forks by a raw system call calls
//            wipe_fork_page() in the child, as this library does: for where a sandbox refuses the
//            call, or an emulator does not what it says. A child that the application makes with
//            clone(2) or _Fork(3) is not noticed there.
// Threads:   thread-safe.
#pragma once

#include <atomic>
#include <cstdint>

namespace sidestep::inline v0 {

// Which of the forks from the first process to this one made it. Not its number: a child in a pid
// namespace of its own may have its parent's.
enum class ForkGeneration : std::uint32_t { none = 0 };

// Relaxed, all of them: each word stands alone.
struct ForkPage {
    std::atomic<ForkGeneration> generation{ForkGeneration::none};  // fork_marker.hpp
    std::atomic<std::uint64_t> owner{0};  // participant.hpp: who this process is
    std::atomic<std::uint64_t> proc{0};   // own_proc.hpp: what it found
};

// Never fails: there is always a page, one way or the other.
ForkPage& fork_page() noexcept;

// In a child that was forked by a raw system call. Async-signal-safe.
void wipe_fork_page() noexcept;

}  // namespace sidestep
