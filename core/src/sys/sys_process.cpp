// Processes by their pidfds, and this one's threads.
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "sys/error.hpp"
#include "sys/own_proc.hpp"
#include "sys/retry.hpp"
#include "sys/sys.hpp"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

namespace sidestep::inline v0::sys {
namespace {

// A thread that was joined may be listed for a moment more: the kernel wakes the joiner before it
// has removed the thread. The ninth field of stat has PF_EXITING (sched.h of the kernel) by then.
bool is_exiting_thread(int tasks, const char* id) noexcept {
    constexpr unsigned long kExiting = 0x4;
    char path[64], text[512];
    std::snprintf(path, sizeof path, "%s/stat", id);
    Fd file(retry([&] { return ::openat(tasks, path, O_RDONLY | O_CLOEXEC); }));
    if (!file) return errno == ENOENT || errno == ESRCH;
    ssize_t size = retry([&] { return ::read(file.get(), text, sizeof text - 1); });
    if (size <= 0) return errno == ESRCH;
    text[size] = '\0';
    const char* name_end = std::strrchr(text, ')');
    unsigned long flags = 0;
    return name_end && std::sscanf(name_end + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) == 1 &&
           (flags & kExiting) != 0;
}

}  // namespace

Fd pidfd_open(int pid) {
    long fd = syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0) throw_call(errno, fmt::format("pidfd_open({})", pid));
    return above_stdio(Fd(static_cast<int>(fd)));
}

bool pidfd_send_signal(int pidfd, int signal) {
    int error = try_signal(pidfd, signal);
    if (error == 0) return true;
    if (error == ESRCH) return false;
    if (error == EPERM)  // by its number, too
        throw_errno(error, fmt::format("pidfd_send_signal({}): the process has another user's ids "
                                       "by now, as what sudo starts; or a sandbox refuses signals",
                                       signal_name(signal)));
    throw_call(error, fmt::format("pidfd_send_signal({})", signal_name(signal)));
}

namespace {

// The number behind a pidfd; -1: it has been reaped, or nobody tells.
int number_of(int pidfd) noexcept {
    char path[40], text[256];
    std::snprintf(path, sizeof path, "/proc/thread-self/fdinfo/%d", pidfd);
    Fd file(::open(path, O_RDONLY | O_CLOEXEC));
    ssize_t size = file && proc_is_ours() ? ::read(file.get(), text, sizeof text - 1) : -1;
    if (size <= 0) return -1;
    text[size] = '\0';
    const char* line = std::strstr(text, "\nPid:");
    return line ? std::atoi(line + 5) : -1;
}

bool is_unreaped_child(int pidfd) noexcept {
    siginfo_t info = {};
    constexpr int kOptions = WEXITED | WNOWAIT | WNOHANG;
    return retry([&] { return syscall(SYS_waitid, P_PIDFD, pidfd, &info, kOptions, nullptr); }) ==
           0;
}

}  // namespace

int try_signal(int pidfd, int signal) noexcept {
    if (syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) == 0) return 0;
    int error = errno;
    if (!is_refusal(error) || !is_unreaped_child(pidfd)) return error;
    int pid = number_of(pidfd);
    if (pid <= 0) return error;
    return ::kill(pid, signal) == 0 ? 0 : errno;
}

ExitStatus wait_pidfd(int pidfd, bool block, bool leave, struct rusage* usage) {
    siginfo_t info = {};
    int options = WEXITED | (block ? 0 : WNOHANG) | (leave ? WNOWAIT : 0);
    // The C library's waitid has no place for the kernel's fifth argument.
    long result = retry([&] { return syscall(SYS_waitid, P_PIDFD, pidfd, &info, options, usage); });
    if (result < 0) {
        if (errno != ECHILD) throw_call(errno, "waitid(P_PIDFD)");
        // Not our child any more: reaped by someone else, or SIGCHLD is ignored. A pidfd that is
        // not readable belongs to a process that still runs.
        Deadline now = Clock::now();
        return wait_for_exit(pidfd, block ? Deadline() : now) ? ExitStatus::lost_status()
                                                              : ExitStatus();
    }
    if (info.si_pid == 0) return {};
    if (info.si_code == CLD_EXITED) return ExitStatus::from_exit_code(info.si_status);
    return ExitStatus::from_signal(info.si_status, info.si_code == CLD_DUMPED);
}

bool is_stopped(int pidfd) noexcept {
    siginfo_t info = {};
    constexpr int kOptions = WSTOPPED | WNOHANG | WNOWAIT;
    return retry([&] { return syscall(SYS_waitid, P_PIDFD, pidfd, &info, kOptions, nullptr); }) ==
               0 &&
           info.si_pid != 0;
}

bool wait_for_exit(int pidfd, const Deadline& deadline) {
    if (!deadline) {
        // For a child, which it leaves unreaped, this is cheaper than poll by a wait queue (2 us).
        siginfo_t info;
        constexpr int kOptions = WEXITED | WNOWAIT;
        if (retry([&] { return syscall(SYS_waitid, P_PIDFD, pidfd, &info, kOptions, nullptr); }) ==
            0)
            return true;
        if (errno != ECHILD) throw_call(errno, "waitid(P_PIDFD)");
    }
    for (;;) {
        pollfd entry = {.fd = pidfd, .events = POLLIN, .revents = 0};
        int n = ::poll(&entry, 1, poll_timeout(deadline));
        if (n > 0) return true;
        if (n < 0 && errno != EINTR) throw_errno(errno, "poll(pidfd)");
        if (deadline && Clock::now() >= *deadline) return false;
    }
}

int find_process(int pid, Fd& pidfd) noexcept {
    long fd = syscall(SYS_pidfd_open, pid, 0);
    if (fd >= 0) {
        pidfd = above_stdio(Fd(static_cast<int>(fd)));
        return 0;
    }
    int error = errno;
    if (error == ESRCH || error == ENOENT || error == EINVAL) return ESRCH;  // the two: a thread's
    return ::kill(pid, 0) < 0 && errno == ESRCH ? ESRCH : error;  // no pidfds: seccomp, fd limit
}

bool has_ended(int pidfd) noexcept {
    pollfd entry = {.fd = pidfd, .events = POLLIN, .revents = 0};
    return retry([&] { return ::poll(&entry, 1, 0); }) > 0;
}

std::optional<std::size_t> thread_count() {
    std::size_t count = 0;
    if (DIR* folder = ::opendir("/proc/self/task")) {
        while (const dirent* entry = ::readdir(folder))
            if (entry->d_name[0] != '.' && !is_exiting_thread(::dirfd(folder), entry->d_name))
                ++count;
        ::closedir(folder);
    } else if (is_shortage(errno)) {
        throw_errno(errno, "opendir(/proc/self/task), to count the threads");
    }
    if (count > 0) return count;
    // Whoever has one thread may ask for this, and nothing happens (unshare(2)). One that was just
    // joined may still be on its way out, which cannot be seen here.
    constexpr int kTries = 20;
    for (int tries = 0; tries < kTries; ++tries) {
        if (::unshare(CLONE_THREAD) == 0) return 1;
        if (errno != EINVAL) break;
        (void)::poll(nullptr, 0, 1);
    }
    return {};
}

}  // namespace sidestep::sys
