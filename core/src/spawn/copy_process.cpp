#include "spawn/copy_process.hpp"

#include <fmt/format.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <system_error>

#include "spawn/fork_child.hpp"
#include "sys/error.hpp"
#include "sys/fork_page.hpp"
#include "sys/sys.hpp"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif

namespace sidestep::inline v0 {
namespace {

// SYNC: a hint, the first rung that is worth a try; it only grows, and any order will do.
std::atomic<int> first_rung{0};

long by_clone3(std::uint64_t flags, std::uint64_t tid_address, Copied& copied) noexcept {
    clone_args arguments = {};
    arguments.flags = flags | CLONE_PIDFD;
    arguments.pidfd = reinterpret_cast<std::uintptr_t>(&copied.pidfd);
    arguments.child_tid = tid_address;
    // Of a sibling it is that of this process (clone(2)).
    arguments.exit_signal = (flags & CLONE_PARENT) != 0 ? 0 : SIGCHLD;
    return ::syscall(SYS_clone3, &arguments, sizeof arguments);
}

long clone_process(std::uint64_t flags, std::uint64_t tid_address, int* pidfd) noexcept {
    constexpr void* kOwnStack = nullptr;
    constexpr unsigned long kNoTls = 0;
#if defined(__x86_64__)
    return ::syscall(SYS_clone, flags | SIGCHLD, kOwnStack, pidfd, tid_address, kNoTls);
#else
    return ::syscall(SYS_clone, flags | SIGCHLD, kOwnStack, pidfd, kNoTls, tid_address);
#endif
}

long by_clone(std::uint64_t flags, std::uint64_t tid_address, Copied& copied) noexcept {
    return clone_process(flags | CLONE_PIDFD, tid_address, &copied.pidfd);
}

int open_pidfd(int pid) noexcept { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

// 0, or why it cannot be had: asked before there is a child that would have to be taken back.
int pidfd_open_error() noexcept {
    Fd own(open_pidfd(::getpid()));
    return own ? 0 : errno;
}

// The kernel does not give a pidfd: it is asked for when the child is there, which nobody reaps
// before he knows of it.
long by_pidfd_open(std::uint64_t flags, std::uint64_t tid_address, Copied& copied) noexcept {
    if (int error = pidfd_open_error(); error != 0) {
        errno = error;
        return -1;
    }
    long pid = clone_process(flags, tid_address, nullptr);
    if (pid <= 0) return pid;
    copied.pidfd = open_pidfd(static_cast<int>(pid));
    if (copied.pidfd >= 0) return pid;
    int error = errno;
    if ((flags & CLONE_PARENT) == 0) {
        discard_child(static_cast<int>(pid));
    } else {
        ::kill(static_cast<int>(pid), SIGKILL);
        copied.killed = static_cast<int>(pid);
    }
    errno = error;
    return -1;
}

using Rung = long (*)(std::uint64_t flags, std::uint64_t tid_address, Copied& copied) noexcept;
constexpr Rung kRungs[] = {&by_clone3, &by_clone, &by_pidfd_open};
constexpr int kRungCount = 3;

long try_rung(int rung, std::uint64_t flags, std::uint64_t tid_address, Copied& copied) noexcept {
    if (tid_address != 0) flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    return kRungs[rung](flags, tid_address, copied);
}

}  // namespace

Copied copy_process(std::uint64_t flags, std::uint64_t tid_address, Rungs rungs) noexcept {
    int end = rungs == Rungs::all ? kRungCount : kRungCount - 1;
    Copied copied;
    copied.error = ENOSYS;
    for (int rung = first_rung.load(std::memory_order_relaxed); rung < end; ++rung) {
        long pid = try_rung(rung, flags, tid_address, copied);
        if (pid == 0) {
            wipe_fork_page();
            return {.pid = 0};
        }
        if (pid > 0) {
            copied.pid = static_cast<int>(pid);
            copied.error = 0;
            break;
        }
        copied.error = errno;
        if (!sys::is_refusal(copied.error) && copied.error != EINVAL) break;
        // EINVAL may be about these flags only: the next time may be another one.
        if (sys::is_refusal(copied.error) && rung + 1 < kRungCount)
            first_rung.store(rung + 1, std::memory_order_relaxed);
    }
    return copied;
}

// glibc keeps the thread's id in the thread's control block, where it once told the kernel to clear
// it: PR_GET_TID_ADDRESS names the place, and the kernel writes the new id there as it does for
// glibc's own fork().
Copied copy_as_sibling(Rungs rungs) noexcept {
    std::uint64_t tid_address = 0;
    if (::prctl(PR_GET_TID_ADDRESS, &tid_address) != 0) tid_address = 0;
    return copy_process(CLONE_PARENT, tid_address, rungs);
}

namespace {

struct Answer {
    std::int32_t pid = 0;
    std::int32_t error = 0;
};

// In a copy of the process: makes the child, which goes on, tells of it, and is gone.
void make_sibling(const Fd& socket) {
    Copied copied = copy_as_sibling(Rungs::with_pidfd);
    if (copied.pid == 0) return;
    Answer answer{copied.pid, copied.error};
    try {
        std::span<const int> fds(&copied.pidfd, copied.pidfd >= 0 ? 1 : 0);
        sys::send_message(socket.get(), std::as_bytes(std::span(&answer, 1)), fds);
    } catch (const std::exception&) {
        if (copied.pid > 0) ::kill(copied.pid, SIGKILL);
    }
    ::_exit(0);
}

sys::ProcessHandle<Fd> fork_through_copy() {
    sys::SocketPair socket = sys::make_socketpair();
    int between = fork_child();
    if (between == 0) {
        socket.first.reset();
        make_sibling(socket.second);
        return {};
    }
    socket.second.reset();
    Answer answer;
    sys::Message message;
    try {
        message =
            sys::receive_message(socket.first.get(), std::as_writable_bytes(std::span(&answer, 1)));
    } catch (...) {  // no room for the descriptor
        discard_child(between);
        discard_child(answer.pid);
        throw;
    }
    discard_child(between);  // it has done what it was for
    if (message.size == sizeof answer && message.fds.size() == 1)
        return {answer.pid, std::move(message.fds[0])};
    discard_child(answer.pid);
    sys::throw_call(answer.error != 0 ? answer.error : ECHILD,
                    "fork: pidfd_open and clone(CLONE_PIDFD)");
}

}  // namespace

sys::ProcessHandle<Fd> fork_child_with_pidfd() {
    if (sys::is_refusal(pidfd_open_error())) return fork_through_copy();
    sys::ProcessHandle<Fd> child{fork_child(), Fd()};
    if (child.pid == 0) return child;
    try {
        child.pidfd = sys::pidfd_open(child.pid);
    } catch (...) {
        discard_child(child.pid);
        throw;
    }
    return child;
}

}  // namespace sidestep
