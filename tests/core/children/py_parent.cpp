// A program that starts children itself, for tests that must not do that in their own process:
// `py_parent COMMAND [ARGUMENTS]`. Exit status: 0 as expected, 77 not possible on this machine.
//
//   inherit_stdout         a child with the std_out of this process; std_in, std_err are pipes
//   call_echo              a child with nothing redirected
//   stderr_to_stdout       a child whose std_err is STDOUT, with std_out inherited
//   stdout_is_1            a child whose std_out is descriptor 1
//   missing_with_pipes     a program that does not exist, with pipes
//   fork_limit             becomes an ordinary user with no process left, then starts a child
//   start_as user|group N  becomes an ordinary user, then starts a child as N
//   keep_groups CHILD      starts `CHILD ids` while it is in the group 4711
//   drop_groups CHILD      the same with an empty list of extra_groups
//   trace MODE             prints "shared" or "copy": how a child of kind MODE gets its memory
#include <grp.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>

#include <sidestep/subprocess.hpp>

namespace sp = sidestep::subprocess;

namespace {

constexpr int kNotPossible = 77;
constexpr uid_t kNobody = 65534;

int inherit_stdout() {
    sp::Popen child({"echo", "from the grandchild"}, {.std_in = sp::PIPE, .std_err = sp::PIPE});
    return child.wait() == 0 && !child.std_out() ? 0 : 1;
}

int missing_with_pipes() {
    try {
        sp::Popen child({"no-such-program"}, {.std_out = sp::PIPE, .std_err = sp::PIPE});
    } catch (const std::system_error& error) {
        int code = error.code().value();
        return code == ENOENT || code == EACCES ? 0 : 1;
    }
    return 2;
}

// Gives up root for good, if we have it: an ordinary user's limits and rights apply after that.
bool become_ordinary_user() {
    if (geteuid() != 0) return true;
    return setgroups(0, nullptr) == 0 && setresgid(kNobody, kNobody, kNobody) == 0 &&
           setresuid(kNobody, kNobody, kNobody) == 0;
}

// Prints "STEP ERRNO" of a start that fails.
int report_start(const sp::Options& options) {
    try {
        sp::call({"/bin/true"}, options);
    } catch (const sp::StartError& error) {
        std::printf("%s %d\n", sp::to_string(error.step()), error.code().value());
        return 0;
    }
    return 1;
}

int fork_limit() {
    if (!become_ordinary_user()) return kNotPossible;
    rlimit before = {};
    getrlimit(RLIMIT_NPROC, &before);
    rlimit none = {0, before.rlim_max};
    if (setrlimit(RLIMIT_NPROC, &none) != 0) return kNotPossible;
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    if (pid > 0) return waitpid(pid, nullptr, 0), kNotPossible;  // the limit does not bind here
    int result = report_start({.preexec_fn = [] {}});
    setrlimit(RLIMIT_NPROC, &before);  // LeakSanitizer needs a thread at the end
    return result;
}

int start_as(const std::string& what, long long number) {
    if (!become_ordinary_user()) return kNotPossible;
    sp::Options options;
    if (what == "user") options.user = number;
    if (what == "group") options.group = number;
    return report_start(options);
}

// Starts `child ids` from a process that is in the group 4711.
int start_from_member(const std::string& child, const sp::Options& options) {
    gid_t group = 4711;
    if (setgroups(1, &group) != 0) return kNotPossible;
    return sp::call({child, "ids"}, options);
}

int start_in_mode(const std::string& mode) {
    sp::Options options;
    if (mode == "preexec_fn") options.preexec_fn = [] {};
    if (mode == "user") options.user = getuid();
    if (mode == "group") options.group = getgid();
    if (mode == "extra_groups") options.extra_groups = std::vector<sp::Identity>{};
    if (mode == "start_new_session") options.start_new_session = true;
    if (mode == "cwd") options.cwd = "/";
    return sp::call({"/bin/true"}, options);
}

// What the process that is about to enter a system call would start: "shared" if the child runs in
// its memory until exec, "copy" if it is a fork, nothing if it starts no process.
const char* kind_of_start(pid_t tracee) {
    __ptrace_syscall_info info = {};
    if (ptrace(PTRACE_GET_SYSCALL_INFO, tracee, sizeof info, &info) <= 0 ||
        info.op != PTRACE_SYSCALL_INFO_ENTRY)
        return nullptr;
    unsigned long flags = 0;
    switch (info.entry.nr) {
        case SYS_clone:
            flags = info.entry.args[0];
            break;
        case SYS_clone3:  // the flags are the first field of its argument
            flags = static_cast<unsigned long>(
                ptrace(PTRACE_PEEKDATA, tracee, info.entry.args[0], nullptr));
            break;
#ifdef SYS_fork
        case SYS_fork:
            break;
        case SYS_vfork:
            flags = CLONE_VM | CLONE_VFORK;
            break;
#endif
        default:
            return nullptr;
    }
    if (flags & CLONE_THREAD) return nullptr;
    return (flags & CLONE_VM) && (flags & CLONE_VFORK) ? "shared" : "copy";
}

// Runs itself under ptrace(2), and looks at each system call that starts a process.
int trace(const std::string& mode) {
    pid_t tracee = fork();
    if (tracee == 0) {
        if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(kNotPossible);
        raise(SIGSTOP);
        _exit(start_in_mode(mode));
    }
    int status = 0;
    waitpid(tracee, &status, 0);
    if (!WIFSTOPPED(status)) return kNotPossible;
    if (ptrace(PTRACE_SETOPTIONS, tracee, nullptr, PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD) != 0)
        return kNotPossible;
    constexpr int kSyscallStop = SIGTRAP | 0x80;
    for (int signal = 0;;) {
        ptrace(PTRACE_SYSCALL, tracee, nullptr, static_cast<long>(signal));
        if (waitpid(tracee, &status, 0) < 0) return 1;
        if (!WIFSTOPPED(status)) return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        signal = WSTOPSIG(status);
        if (signal != kSyscallStop) continue;  // handed on
        signal = 0;
        if (const char* kind = kind_of_start(tracee)) std::puts(kind);
    }
}

}  // namespace

int main(int argc, char** argv) {
    auto argument = [&](int i) { return std::string(i < argc ? argv[i] : ""); };
    const std::map<std::string, std::function<int()>> commands = {
        {"inherit_stdout", inherit_stdout},
        {"call_echo",
         [] {
             return sp::call({"echo", "Hello World!"});
         }},
        {"stderr_to_stdout",
         [] {
             return sp::call({"sh", "-c", "printf 42 >&2"}, {.std_err = sp::STDOUT});
         }},
        {"stdout_is_1",
         [] {
             return sp::call({"printf", "to descriptor 1"}, {.std_out = 1});
         }},
        {"missing_with_pipes", missing_with_pipes},
        {"fork_limit", fork_limit},
        {"start_as", [&] { return start_as(argument(2), std::atoll(argument(3).c_str())); }},
        {"keep_groups", [&] { return start_from_member(argument(2), {}); }},
        {"drop_groups",
         [&] {
             return start_from_member(argument(2), {.extra_groups = std::vector<sp::Identity>{}});
         }},
        {"trace", [&] { return trace(argument(2)); }},
    };
    auto command = commands.find(argument(1));
    if (command == commands.end()) {
        std::fprintf(stderr, "py_parent: unknown command; see the head of py_parent.cpp\n");
        return 64;
    }
    return command->second();
}
