// The child's side of a start. It may run in the parent's memory (CLONE_VM), on a small stack, so:
// raw system calls only, no allocation, no lock, no library function that could be intercepted,
// and no sanitizer instrumentation. The order of the steps is CPython's (_posixsubprocess.c,
// child_exec), with ours between setpgid and setgroups, where the privileges are still there.
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <type_traits>

#include "spawn/spawn_plan.hpp"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

// On every function here: instrumented code would write to the parent's shadow memory.
#if defined(__clang__)
#define SIDESTEP_CHILD_SIDE __attribute__((noinline, no_sanitize("address", "thread", "undefined")))
#else
#define SIDESTEP_CHILD_SIDE                                                 \
    __attribute__((noinline, no_sanitize("address"), no_sanitize("thread"), \
                   no_sanitize("undefined")))
#endif

namespace sidestep::inline v0::spawn {
namespace {

// System calls take words, not ints: what is above 32 bits must be defined.
template <class T>
SIDESTEP_CHILD_SIDE long word(T value) noexcept {
    if constexpr (std::is_pointer_v<T>)
        return reinterpret_cast<long>(value);
    else if constexpr (std::is_null_pointer_v<T>)
        return 0;
    else
        return static_cast<long>(value);
}

template <class... Arguments>
SIDESTEP_CHILD_SIDE long raw(long number, Arguments... arguments) noexcept {
    long result;
    do result = ::syscall(number, word(arguments)...);
    while (result < 0 && errno == EINTR);
    return result;
}

[[noreturn]] SIDESTEP_CHILD_SIDE void fail(const Plan& plan, StartStep step, int error) noexcept {
    plan.failure->step = step;
    plan.failure->error = error;
    for (;;) raw(SYS_exit_group, 255);
}

SIDESTEP_CHILD_SIDE void check(const Plan& plan, StartStep step, long result) noexcept {
    if (result < 0) fail(plan, step, errno);
}

SIDESTEP_CHILD_SIDE long set_cloexec(int fd, bool on) noexcept {
    return raw(SYS_fcntl, fd, F_SETFD, on ? FD_CLOEXEC : 0);
}

// All moves at once, whatever their sources and targets: a source that another move overwrites is
// copied out of the way first. dup2(n, n) would leave close-on-exec set.
SIDESTEP_CHILD_SIDE void redirect(const Plan& plan) noexcept {
    std::size_t used = 0;
    for (std::size_t i = 0; i < plan.move_count; ++i) {
        if (!plan.moves[i].copy_first) continue;
        long copy = raw(SYS_fcntl, plan.moves[i].source, F_DUPFD_CLOEXEC, plan.first_spare_fd);
        check(plan, StartStep::redirect, copy);
        plan.copies[used++] = static_cast<int>(copy);
    }
    used = 0;
    for (std::size_t i = 0; i < plan.move_count; ++i) {
        const Move& move = plan.moves[i];
        int source = move.copy_first ? plan.copies[used++] : move.source;
        long done = source == move.target ? set_cloexec(source, false)
                                          : raw(SYS_dup3, source, move.target, 0);
        check(plan, StartStep::redirect, done);
    }
}

// struct sigaction as the kernel has it; all zero is SIG_DFL, and the handler comes first.
struct KernelSigaction {
    unsigned long handler;
    unsigned long rest[4];
};
constexpr std::size_t kSignalSetBytes = 8;

SIDESTEP_CHILD_SIDE void set_signals(const Plan& plan) noexcept {
    KernelSigaction standard;
    standard.handler = 0;
    for (unsigned long& word : standard.rest) word = 0;
    if (!plan.handlers_cleared) {
        // Before anything is unblocked: no handler of the parent may run here.
        for (int signal = 1; signal <= 64; ++signal) {
            KernelSigaction current;
            if (raw(SYS_rt_sigaction, signal, nullptr, &current, kSignalSetBytes) < 0) continue;
            if (current.handler > 1)  // neither SIG_DFL nor SIG_IGN
                raw(SYS_rt_sigaction, signal, &standard, nullptr, kSignalSetBytes);
        }
    }
    if (plan.restore_signals) {
        raw(SYS_rt_sigaction, SIGPIPE, &standard, nullptr, kSignalSetBytes);
        raw(SYS_rt_sigaction, SIGXFSZ, &standard, nullptr, kSignalSetBytes);
    }
    if (plan.set_blocked_signals)
        check(
            plan, StartStep::signals,
            raw(SYS_rt_sigprocmask, SIG_SETMASK, &plan.blocked_signals, nullptr, kSignalSetBytes));
}

SIDESTEP_CHILD_SIDE void set_process_attributes(const Plan& plan) noexcept {
    if (plan.new_session) check(plan, StartStep::setsid, raw(SYS_setsid));
    if (plan.set_process_group)
        check(plan, StartStep::setpgid, raw(SYS_setpgid, 0, plan.process_group));
    for (std::size_t i = 0; i < plan.limit_count; ++i)
        check(plan, StartStep::setrlimit,
              raw(SYS_prlimit64, 0, plan.limits[i].resource, plan.limits[i].soft_hard, nullptr));
    if (plan.cpus)
        check(plan, StartStep::affinity, raw(SYS_sched_setaffinity, 0, plan.cpus_bytes, plan.cpus));
    if (plan.set_nice)
        check(plan, StartStep::nice, raw(SYS_setpriority, PRIO_PROCESS, 0, plan.nice));
    if (plan.set_groups)
        check(plan, StartStep::setgroups, raw(SYS_setgroups, plan.group_count, plan.groups));
    if (plan.set_gid) check(plan, StartStep::setgid, raw(SYS_setregid, plan.gid, plan.gid));
    if (plan.set_uid) check(plan, StartStep::setuid, raw(SYS_setreuid, plan.uid, plan.uid));
}

SIDESTEP_CHILD_SIDE void let_sigio_kill() noexcept {
    KernelSigaction standard;
    standard.handler = 0;
    for (unsigned long& word : standard.rest) word = 0;
    std::uint64_t only = std::uint64_t{1} << (SIGIO - 1);
    raw(SYS_rt_sigaction, SIGIO, &standard, nullptr, kSignalSetBytes);
    raw(SYS_rt_sigprocmask, SIG_UNBLOCK, &only, nullptr, kSignalSetBytes);
}

// The ladder of lifeline.hpp, for a program that knows nothing of us.
SIDESTEP_CHILD_SIDE void arm_lifeline(const Plan& plan) noexcept {
    if (plan.lifeline < 0) return;
    constexpr auto step = StartStep::die_with_parent;
    if (raw(SYS_fcntl, plan.lifeline, F_SETSIG, SIGKILL) < 0) let_sigio_kill();
    bool armed = raw(SYS_fcntl, plan.lifeline, F_SETOWN, raw(SYS_getpid)) >= 0 &&
                 raw(SYS_fcntl, plan.lifeline, F_SETFL, O_RDONLY | O_ASYNC | O_NONBLOCK) >= 0;
    if (!armed) {
        check(plan, step, raw(SYS_fcntl, plan.lifeline, F_SETFL, O_RDONLY | O_NONBLOCK));
        check(plan, step, raw(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0));
    }
    // The parent may have died before that.
    char byte;
    long parent = raw(SYS_getppid);
    if (raw(SYS_read, plan.lifeline, &byte, 1) == 0 || (parent != plan.parent_pid && parent != 0))
        fail(plan, step, EOWNERDEAD);
}

SIDESTEP_CHILD_SIDE bool close_on_exec_by_proc() noexcept {
    long folder = raw(SYS_openat, AT_FDCWD, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (folder < 0) return false;
    struct Entry {  // linux_dirent64
        std::uint64_t inode;
        std::int64_t offset;
        unsigned short size;
        unsigned char type;
        char name[1];
    };
    alignas(Entry) char buffer[2048];
    long size;
    while ((size = raw(SYS_getdents64, folder, buffer, sizeof buffer)) > 0) {
        for (long at = 0; at < size;) {
            const Entry* entry = reinterpret_cast<const Entry*>(buffer + at);
            int fd = 0;
            bool number = entry->name[0] != '\0';
            for (const char* c = entry->name; *c; ++c) {
                if (*c < '0' || *c > '9') number = false;
                if (number) fd = fd * 10 + (*c - '0');
            }
            if (number && fd > 2) set_cloexec(fd, true);
            at += entry->size;
        }
    }
    raw(SYS_close, folder);
    return size == 0;
}

// poll(2) tells which of many numbers are descriptors, so that even a limit of a billion without
// /proc ends.
SIDESTEP_CHILD_SIDE void close_on_exec_by_poll() noexcept {
    // A limit may have been lowered below descriptors that are open: look at so many at least.
    constexpr std::uint64_t kAtLeast = 65536, kAtMost = 1u << 30;
    std::uint64_t soft_hard[2];
    if (raw(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, soft_hard) < 0) soft_hard[1] = kAtLeast;
    std::uint64_t highest = soft_hard[1] < kAtLeast ? kAtLeast : soft_hard[1];
    auto limit = static_cast<unsigned>(highest > kAtMost ? kAtMost : highest);
    constexpr unsigned kBatch = 256;
    pollfd entries[kBatch];
    for (unsigned first = 3; first < limit; first += kBatch) {
        unsigned count = limit - first < kBatch ? limit - first : kBatch;
        for (unsigned i = 0; i < count; ++i) {
            entries[i].fd = static_cast<int>(first + i);
            entries[i].events = 0;
            entries[i].revents = 0;
        }
        struct timespec none;
        none.tv_sec = 0;
        none.tv_nsec = 0;
        // It refuses more entries than RLIMIT_NOFILE allows: then every number is tried.
        bool known = raw(SYS_ppoll, entries, count, &none, nullptr, kSignalSetBytes) >= 0;
        for (unsigned i = 0; i < count; ++i)
            if (!known || !(entries[i].revents & POLLNVAL)) set_cloexec(entries[i].fd, true);
    }
}

SIDESTEP_CHILD_SIDE void close_fds(const Plan& plan) noexcept {
    if (plan.close_fds) {
        bool done = plan.close_method == CloseMethod::close_range &&
                    raw(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC) == 0;
        if (!done && plan.close_method != CloseMethod::poll) done = close_on_exec_by_proc();
        if (!done) close_on_exec_by_poll();
    }
    for (std::size_t i = 0; i < plan.kept_count; ++i)
        check(plan, StartStep::close_fds, set_cloexec(plan.kept[i], false));
}

[[noreturn]] SIDESTEP_CHILD_SIDE void execute(const Plan& plan) noexcept {
    int error = 0;
    for (const char* const* path = plan.candidates; *path; ++path) {
        raw(SYS_execve, *path, plan.argv, plan.envp);
        bool absent = errno == ENOENT || errno == ENOTDIR;
        // In a search, the first error that is more than "not there" counts.
        if (error == 0 && (!absent || !plan.candidates[1])) error = errno;
    }
    if (error == 0) error = ENOENT;
    fail(plan, StartStep::exec, error);
}

}  // namespace

[[noreturn]] SIDESTEP_CHILD_SIDE void run_child(const Plan& plan) noexcept {
    redirect(plan);
    if (plan.cwd) check(plan, StartStep::chdir, raw(SYS_chdir, plan.cwd));
    if (plan.umask >= 0) raw(SYS_umask, plan.umask);
    set_signals(plan);
    set_process_attributes(plan);
    arm_lifeline(plan);
    if (plan.preexec) {
        int error = plan.preexec(plan.preexec_context);
        if (error != 0) fail(plan, StartStep::preexec_fn, error);
    }
    close_fds(plan);
    execute(plan);
}

}  // namespace sidestep::spawn
