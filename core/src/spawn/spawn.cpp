#include "spawn/spawn.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <stdexcept>

#include "spawn/copy_process.hpp"
#include "sys/error.hpp"
#include "sys/parent_fd.hpp"
#include "sys/sys.hpp"
#include "sys/sys_socket.hpp"

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif

namespace sidestep::inline v0::spawn {

using subprocess::StartError;

namespace {

#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif
#else
constexpr bool kThreadSanitizer = false;
#endif

// Of the child, while it shares our memory. It runs nothing but spawn_child.cpp.
constexpr std::size_t kStackBytes = 16 * 1024;

struct Started {
    int pid = -1;
    int pidfd = -1;
    int error = 0;
    bool refused() const { return sys::is_refusal(error) || error == EINVAL; }
};

int enter_child(void* plan) { run_child(*static_cast<const Plan*>(plan)); }

// Around a clone that leaves the handlers to the child: one that ran there before the child has
// reset it would run in our memory. All signals, the C library's own too.
class BlockSignals {
  public:
    explicit BlockSignals(Plan& plan) {
        std::uint64_t all = ~std::uint64_t{0};
        syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &former_, sizeof all);
        plan.handlers_cleared = false;
        if (!plan.set_blocked_signals) plan.blocked_signals = former_;
        plan.set_blocked_signals = true;
    }
    ~BlockSignals() { syscall(SYS_rt_sigprocmask, SIG_SETMASK, &former_, nullptr, sizeof former_); }
    BlockSignals(const BlockSignals&) = delete;
    BlockSignals& operator=(const BlockSignals&) = delete;

  private:
    std::uint64_t former_ = 0;
};

#if defined(__x86_64__)
// The C library has no clone3 for us. The child starts on its own stack with nothing but the
// registers, and calls run_child; only the parent leaves this function. The kernel clears the
// handlers, so no signal needs to be blocked: one for the child does what it would do after exec,
// and one for this thread waits until the child shares our memory no more.
Started start_clone3(Plan& plan) {
    alignas(16) std::byte stack[kStackBytes];
    Started started;
    clone_args arguments = {};
    arguments.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
    arguments.pidfd = reinterpret_cast<std::uintptr_t>(&started.pidfd);
    arguments.exit_signal = SIGCHLD;
    arguments.stack = reinterpret_cast<std::uintptr_t>(stack);
    arguments.stack_size = sizeof stack;
    plan.handlers_cleared = true;
    long result;
    register int (*entry)(void*) asm("r8") = enter_child;
    register Plan* plan_register asm("r9") = &plan;
    asm volatile(
        "syscall\n\t"
        "test %%rax, %%rax\n\t"
        "jne 1f\n\t"
        "xor %%ebp, %%ebp\n\t"
        "mov %%r9, %%rdi\n\t"
        "call *%%r8\n\t"
        "hlt\n"
        "1:"
        : "=a"(result)
        : "a"(SYS_clone3), "D"(&arguments), "S"(sizeof arguments), "r"(entry), "r"(plan_register)
        : "rcx", "r11", "memory");
    if (result < 0)
        started.error = static_cast<int>(-result);
    else
        started.pid = static_cast<int>(result);
    return started;
}
#else
Started start_clone3(Plan&) { return {.error = ENOSYS}; }
#endif

Started start_clone(Plan& plan) {
    alignas(16) std::byte stack[kStackBytes];
    Started started;
    BlockSignals blocked(plan);
    started.pid = ::clone(enter_child, stack + sizeof stack,
                          CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &plan, &started.pidfd);
    if (started.pid < 0) started.error = errno;
    return started;
}

Started copy_and_run(Plan& plan, Rungs rungs) {
    BlockSignals blocked(plan);
    Copied copied = copy_process(CLONE_VFORK, 0, rungs);
    if (copied.pid == 0) run_child(plan);
    return {copied.pid, copied.pidfd, copied.error};
}

// Where CLONE_VFORK may not be known, a pipe that exec closes is waited for. Forked siblings close
// their copies of it (ParentFd).
Started copy_and_wait(Plan& plan) {
    sys::Pipe pipe = sys::make_pipe();
    int in_child = sys::duplicate_fd(pipe.write_end.get(), plan.first_spare_fd);
    if (in_child < 0) return {.error = errno};
    ParentFd write_end{Fd(in_child)};
    pipe.write_end.reset();
    Started started = copy_and_run(plan, Rungs::all);
    write_end.reset();
    if (started.pid > 0) (void)sys::wait_ready(pipe.read_end.get(), POLLIN, {});
    return started;
}

// A copy of the parent. CLONE_VFORK here only means that we wait for exec; the failure comes back
// through a page that both share. (No error pipe: a sibling could inherit and hold it.)
Started start_fork(Plan& plan) {
    Started started = copy_and_run(plan, Rungs::with_pidfd);
    return started.refused() ? copy_and_wait(plan) : started;
}

Started start_fork_reporting(Plan& plan, Failure& failure) {
    void* address =
        ::mmap(nullptr, sizeof(Failure), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) return {.error = errno};
    Mapping shared(address, sizeof(Failure));
    auto* theirs = new (address) Failure{StartStep::spawn, 0};
    plan.failure = theirs;
    Started started = start_fork(plan);
    failure = *theirs;
    return started;
}

// SYNC: a hint, set once and never unset; any order will do.
std::atomic<bool> clone3_refused{false};

Started start_by_best(Plan& plan, bool needs_fork, Failure& failure) {
    Primitive primitive = internals().primitive;
    if (needs_fork || kThreadSanitizer || primitive == Primitive::fork)
        return start_fork_reporting(plan, failure);
    bool automatic = primitive == Primitive::automatic;
    if (primitive == Primitive::clone3 ||
        (automatic && !clone3_refused.load(std::memory_order_relaxed))) {
        Started started = start_clone3(plan);
        if (!automatic || !started.refused()) return started;
        clone3_refused.store(true, std::memory_order_relaxed);
    }
    Started started = start_clone(plan);
    if (!automatic || !started.refused()) return started;
    return start_fork_reporting(plan, failure);
}

// The file that the child was to execute, if it is there.
std::string found_executable(const Description& description) {
    std::string folder = description.cwd();
    if (!folder.empty()) folder += '/';
    struct stat file;
    for (const char* const* path = description.plan().candidates; *path; ++path) {
        std::string whole = **path == '/' ? *path : folder + *path;
        if (::stat(whole.c_str(), &file) == 0 && S_ISREG(file.st_mode)) return whole;
    }
    return {};
}

std::string hint(const Description& description, const Failure& failure) {
    switch (failure.error) {
        case ENOENT: {
            std::string found = found_executable(description);
            if (!found.empty())
                return fmt::format("\"{}\" is there, but the interpreter that it asks for is not",
                                   found);
            const std::string name = description.executable();
            std::string why =
                name.find('/') == name.npos ? "it is in no folder of the child's PATH" : "";
            if (name.find_first_of(" \t\n") != name.npos)
                why += std::string(why.empty() ? "" : "; ") +
                       "this is one word, the program's name: to run a command line say .shell = "
                       "true, or give the words as a list, {\"ls\", \"-l\"}";
            return why;
        }
        case EACCES:
            return "not a file, not executable (chmod +x), or in a folder that is not searchable";
        case ENOEXEC:
            return "no format that the kernel can execute; a script needs a #! line, or "
                   "{\"sh\", file}";
        case E2BIG:
            return "arguments and environment are too long";
        default:
            return {};
    }
}

[[noreturn]] void throw_failure(const Description& description, const Failure& failure) {
    std::string what = fmt::format("cannot start \"{}\": ", description.executable());
    std::string path;
    switch (failure.step) {
        case StartStep::exec: {
            path = description.executable();
            std::string why = hint(description, failure);
            what += why.empty() ? "exec" : "exec (" + why + ")";
            break;
        }
        case StartStep::chdir:
            path = description.cwd();
            what += fmt::format("chdir(\"{}\")", path);
            break;
        case StartStep::spawn:
            what += failure.error == EAGAIN ? "clone (a limit on processes: ulimit -u, or the "
                                              "cgroup's pids.max)"
                                            : "clone" + sys::refusal_hint(failure.error);
            break;
        case StartStep::redirect: {
            what += "redirect";
            const Plan& plan = description.plan();
            for (std::size_t i = 0; i < plan.move_count && failure.error == EBADF; ++i)
                if (!sys::is_open(plan.moves[i].source)) {
                    what += fmt::format(" (descriptor {} is not open)", plan.moves[i].source);
                    break;
                }
            break;
        }
        default: {
            what += to_string(failure.step);
            std::string subject = description.subject_of(failure);
            if (!subject.empty()) what += " (" + subject + ")";
        }
    }
    throw StartError(failure.step, failure.error, path, what);
}

}  // namespace

Child start(const Description& description) {
    Plan plan = description.plan();
    plan.parent_pid = ::getpid();
    Failure failure{StartStep::spawn, 0};
    plan.failure = &failure;
    Started started = start_by_best(plan, description.needs_fork(), failure);
    if (started.pid < 0) throw_failure(description, {StartStep::spawn, started.error});
    Child child{{started.pid, Fd(started.pidfd)}, {}};
    if (failure.error == 0 && child.fd() <= STDERR_FILENO) {
        try {
            child.pidfd = child.pidfd.duplicate();
        } catch (const std::system_error& e) {  // the child that runs would be nobody's
            ::kill(started.pid, SIGKILL);
            failure = {StartStep::spawn, e.code().value()};
        }
    }
    if (failure.error != 0) {
        (void)child.wait();
        throw_failure(description, failure);
    }
    return child;
}

Child start(const subprocess::Args& args, const subprocess::Options& options) {
    using Kind = subprocess::Redirect::Kind;
    Description description(args, options);
    Fd null;
    Stdio stdio;
    const subprocess::Redirect* streams[] = {&options.std_in, &options.std_out, &options.std_err};
    int* targets[] = {&stdio.in, &stdio.out, &stdio.err};
    for (int i = 0; i < 3; ++i) {
        Kind kind = streams[i]->kind();
        if (kind == Kind::pipe)
            throw std::invalid_argument("spawn::start: PIPE needs a Popen to hold the other end");
        if (kind == Kind::devnull && !null) null = sys::open_dev_null();
        if (kind == Kind::devnull) *targets[i] = null.get();
        if (kind == Kind::fd) *targets[i] = streams[i]->fd();
        if (kind == Kind::stdout_) *targets[i] = stdio.out >= 0 ? stdio.out : STDOUT_FILENO;
    }
    description.set_stdio(stdio);
    Child child = start(description);
    child.lifeline = description.take_lifeline();
    return child;
}

}  // namespace sidestep::spawn
