// A child as plain data: everything that the child-side code needs, prepared before the child
// exists, because the child may share the parent's memory and must not allocate.
//
// Ownership: nothing here owns anything; Description (spawn_description.hpp) does.
#pragma once

#include <cstddef>
#include <cstdint>

#include <sidestep/subprocess_result.hpp>

namespace sidestep::inline v0::spawn {

using subprocess::StartStep;

// One descriptor of the child: `source` in the parent becomes `target`.
struct Move {
    int source;
    int target;
    bool copy_first;  // `source` is the target of another move: it is copied away before
};

struct Limit {
    int resource;
    std::uint64_t soft_hard[2];  // struct rlimit64
};

// How the close step keeps other descriptors out of the child. Later ones are fallbacks.
enum class CloseMethod { close_range, proc_self_fd, poll };

// Written by the child before it gives up. error == 0: it did not.
struct Failure {
    StartStep step;
    int error;
};

struct Plan {
    // Paths to try, in order, up to a null pointer; argv and envp likewise.
    const char* const* candidates = nullptr;
    char* const* argv = nullptr;
    char* const* envp = nullptr;

    const Move* moves = nullptr;
    std::size_t move_count = 0;
    int* copies = nullptr;   // room for one per move
    int first_spare_fd = 3;  // above every target
    // Descriptors of 3 and more that survive exec.
    const int* kept = nullptr;
    std::size_t kept_count = 0;
    bool close_fds = true;
    CloseMethod close_method = CloseMethod::close_range;

    const char* cwd = nullptr;
    int umask = -1;

    bool handlers_cleared = false;  // by CLONE_CLEAR_SIGHAND
    bool restore_signals = true;
    bool set_blocked_signals = false;  // else: those of the calling thread
    std::uint64_t blocked_signals = 0;

    bool new_session = false;
    bool set_process_group = false;
    int process_group = 0;

    const Limit* limits = nullptr;
    std::size_t limit_count = 0;
    const unsigned long* cpus = nullptr;  // a mask: CpuSet::words()
    std::size_t cpus_bytes = 0;
    bool set_nice = false;
    int nice = 0;

    bool set_groups = false;
    const unsigned* groups = nullptr;
    std::size_t group_count = 0;
    bool set_gid = false;
    unsigned gid = 0;
    bool set_uid = false;
    unsigned uid = 0;

    int lifeline = -1;  // the read end of a pipe whose other end dies with the parent
    int parent_pid = 0;

    // Returns 0 or an errno.
    int (*preexec)(void* context) noexcept = nullptr;
    void* preexec_context = nullptr;

    volatile Failure* failure = nullptr;
};

// Runs in the child: carries out the plan and executes the program; on failure writes
// *plan.failure and ends the child.
[[noreturn]] void run_child(const Plan& plan) noexcept;

}  // namespace sidestep::spawn
