// Programs that give up privileges, run out of something for a while, or have a terminal.
#include "service_program.hpp"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/thread_pool.hpp>

#include "pool_support.hpp"

namespace mp = sidestep;
using namespace std::chrono_literals;

namespace {

int expect(bool condition, const char* what) {
    if (!condition) std::printf("FAILED: %s\n", what);
    return condition ? 0 : 1;
}

[[noreturn]] void for_ever() {
    signal(SIGTERM, SIG_IGN);
    for (;;) pause();
}
int hang() { for_ever(); }

template <class E, class T>
int expect_error(const mp::Future<T>& future, const char* what, std::string* text = nullptr) {
    if (!future.wait_for(test::kPatience)) return expect(false, "it hangs");
    try {
        future.get();
    } catch (const E& error) {
        if (text) *text = error.what();
        return 0;
    } catch (const std::exception& error) {
        std::puts(error.what());
    }
    return expect(false, what);
}

bool give_up_root() {
    return setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0;
}

// --- privileges --------------------------------------------------------------------------------

// What was started as root is not signalled by nobody.
int dropped_privileges(mp::StartMethod method, bool terminates) {
    if (geteuid() != 0) return std::puts("skipped: only root has privileges to give up"), 0;
    std::vector<int> pids;
    int failures = 0;
    {
        mp::Pool pool({.processes = 2, .start_method = method, .terminate_grace = 20ms});
        test::SharedWords words(2);
        pids = pool.worker_pids();
        auto waits = pool.submit(test::wait_at, words.path(), 0u, 1u);
        test::await(words[0]);
        failures += expect(give_up_root(), "setresuid");
        if (terminates) {
            pool.terminate();
            failures += expect_error<mp::CancelledError>(waits, "cancelled");
        } else {
            auto late = pool.submit({.timeout = 20ms}, hang);
            failures += expect_error<mp::TaskTimeout>(late, "TaskTimeout");
            words[1] = 1;
            failures += expect(waits.wait_for(test::kPatience), "the other worker works");
            failures += expect(pool.submit(test::add, 1, 2).get() == 3, "and does more");
        }
    }
    for (int pid : pids) failures += expect(!test::process_exists(pid), "no worker is left");
    return failures;
}

// Another process has the lifelines, too: here, copies of our own.
int unending_worker(mp::StartMethod method) {
    if (geteuid() != 0) return std::puts("skipped: only root has privileges to give up"), 0;
    std::vector<int> copies;
    int failures = 0;
    {
        mp::Pool pool({.processes = 1, .start_method = method, .terminate_grace = 20ms});
        for (int fd = 3; fd < 256; ++fd) {
            struct stat file = {};
            if (fstat(fd, &file) == 0 && S_ISFIFO(file.st_mode)) copies.push_back(dup(fd));
        }
        failures += expect(give_up_root(), "setresuid");
        auto late = pool.submit({.timeout = 20ms}, hang);
        auto waits = pool.submit(test::add, 1, 2);
        failures += expect_error<mp::TaskTimeout>(late, "TaskTimeout");
        std::string text;
        failures += expect_error<mp::BrokenPool>(waits, "BrokenPool", &text);
        std::puts(text.c_str());
    }
    for (int fd : copies) close(fd);  // now the lifeline ends it
    return failures;
}

// --- shortages ---------------------------------------------------------------------------------

// While it lives, something is used up. Descriptors: all below kDescriptors are taken for good,
// what the pool has lies above, and for a while there is none above: what a worker gives back is no
// help.
class Shortage {
  public:
    explicit Shortage(const std::string& what) : what_(what) {
        if (what == "descriptors") limit_descriptors(kDescriptors);
        if (what == "processes") limit_processes(1);
        if (what == "memory") limit_address_space(1 << 20);  // less than there is: no more
    }
    ~Shortage() {
        if (what_ == "descriptors") limit_descriptors(2 * kDescriptors);
        if (what_ == "processes") limit_processes(4096);
        if (what_ == "memory") limit_address_space(RLIM_INFINITY);
    }
    Shortage(const Shortage&) = delete;
    Shortage& operator=(const Shortage&) = delete;

    // What the process does once, before its pool is made.
    static bool prepare(const std::string& what) {
        if (what == "descriptors") {
            limit_descriptors(kDescriptors);
            while (fcntl(0, F_DUPFD_CLOEXEC, 0) >= 0) {
            }
            return limit_descriptors(2 * kDescriptors);
        }
        if (what != "processes" || geteuid() != 0) return what != "processes";
        bool done = give_up_root();  // root has no such limit
        prctl(PR_SET_DUMPABLE, 1);
        return done;
    }

  private:
    static constexpr rlim_t kDescriptors = 64;

    static bool limit_descriptors(rlim_t most) {
        rlimit limit = {most, 2 * kDescriptors};
        return setrlimit(RLIMIT_NOFILE, &limit) == 0;
    }
    static void limit_address_space(rlim_t bytes) {
        rlimit limit = {bytes, RLIM_INFINITY};
        setrlimit(RLIMIT_AS, &limit);
    }
    // Of this process, and of a fork server, or template, that starts workers in its place.
    static void limit_processes(rlim_t most) {
        rlimit limit = {most, 4096};
        setrlimit(RLIMIT_NPROC, &limit);
        for (pid_t child : test::children_of(getpid()))
            prlimit(child, RLIMIT_NPROC, &limit, nullptr);
    }
    std::string what_;
};

constexpr auto kShortWhile = 500ms;  // several times what the crash loop takes to be seen

// The one worker is gone after a task, and there is no other for a while.
int shortage(mp::StartMethod method, const std::string& of) {
    if (!Shortage::prepare(of)) return std::puts("skipped: it needs root"), 0;
    mp::Pool pool({.processes = 1, .start_method = method, .max_tasks_per_child = 1});
    int failures = expect(pool.apply(test::add, 1, 2) == 3, "before");
    mp::Future<int> last, waits;
    {
        Shortage none(of);
        last = pool.submit(test::add, 2, 3);
        waits = pool.submit(test::add, 3, 4);
        failures += expect(!waits.wait_for(kShortWhile), "it waits");
    }
    failures += expect(last.get() == 5 && waits.get() == 7, "tasks that waited");
    return failures + expect(pool.apply(test::add, 4, 5) == 9, "after");
}

// They have left since there was nothing to do.
int idle_shortage(mp::StartMethod method) {
    if (!Shortage::prepare("descriptors")) return 1;
    mp::Pool pool({.processes = 2, .start_method = method, .idle_timeout = 1ms});
    int failures =
        expect(test::eventually([&] { return pool.worker_pids().empty(); }), "they leave");
    mp::Future<int> waits;
    {
        Shortage none("descriptors");
        waits = pool.submit(test::add, 3, 4);
        failures += expect(!waits.wait_for(kShortWhile), "it waits");
    }
    return failures + expect(waits.get() == 7, "a task that waited");
}

// One works on while the others cannot be started; in the end there are as many as are wanted.
int growing_shortage(mp::StartMethod method) {
    if (!Shortage::prepare("descriptors")) return 1;
    mp::Pool pool(
        {.processes = 1, .start_method = method, .start_patience = std::chrono::nanoseconds(0)});
    int failures = expect(pool.apply(test::add, 1, 2) == 3, "before");
    {
        Shortage none("descriptors");
        pool.resize(3);
        for (int i = 0; i < 100; ++i) failures += pool.apply(test::add, i, 1) != i + 1;
        failures += expect(pool.worker_pids().size() == 1, "one worker");
    }
    bool grown = test::eventually([&] { return pool.worker_pids().size() == 3; });
    return failures + expect(grown, "three workers");
}

// It does not pass.
int lasting_shortage(mp::StartMethod method) {
    if (!Shortage::prepare("descriptors")) return 1;
    mp::Pool pool({.processes = 1,
                   .start_method = method,
                   .max_tasks_per_child = 1,
                   .start_patience = 300ms});
    int failures = expect(pool.apply(test::add, 1, 2) == 3, "before");
    Shortage none("descriptors");
    std::string text;
    pool.submit(test::add, 1, 2);
    auto waits = pool.submit(test::add, 3, 4);
    failures += expect_error<mp::BrokenPool>(waits, "BrokenPool", &text);
    std::puts(text.c_str());
    return failures;
}

// --- a system that refuses ---------------------------------------------------------------------

// From here on the kernel tells no thread of this process of events.
bool refuse_epoll() {
    sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
#ifdef SYS_epoll_wait
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_wait, 1, 0),
#else
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 1, 0),
#endif
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOMEM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog program = {std::size(rules), rules};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0;
}

int without_events(mp::StartMethod method, bool lasting) {
    mp::PoolOptions options{.processes = 2, .start_method = method};
    if (lasting) options.start_patience = 50ms;
    mp::Pool pool(options);
    int failures = expect(pool.apply(test::add, 1, 2) == 3, "before");
    if (!refuse_epoll()) return std::puts("skipped: no seccomp here"), failures;
    if (lasting) {
        std::string text;
        auto waits = pool.submit(hang);
        failures += expect_error<mp::BrokenPool>(waits, "BrokenPool", &text);
        return std::puts(text.c_str()), failures;
    }
    for (int i = 0; i < 3; ++i) {
        failures += expect_error<mp::WorkerLost>(pool.submit(test::die, SIGKILL), "WorkerLost");
        failures += expect_error<mp::TaskTimeout>(pool.submit({.timeout = 20ms}, hang), "late");
        failures += expect(pool.apply(test::add, i, 2) == i + 2, "a result");
    }
    return failures;
}

// --- a terminal --------------------------------------------------------------------------------

// What a task gets of the terminal: errno of reading it, then of writing to it; 0: it works.
std::pair<int, int> use_terminal() {
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
    if (fd < 0) return {-errno, 0};
    char c;
    int reads = read(fd, &c, 1) < 0 ? errno : 0;
    int writes = write(fd, "x", 1) < 0 ? errno : 0;
    close(fd);
    return {reads, writes};
}

// A process that leads a session with a terminal, on which background processes may not write.
int terminal(mp::StartMethod method) {
    int controller = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (controller < 0 || grantpt(controller) < 0 || unlockpt(controller) < 0)
        return std::puts("skipped: there are no pseudo-terminals here"), 0;
    (void)setsid();
    int fd = open(ptsname(controller), O_RDWR | O_CLOEXEC);  // becomes the session's
    termios settings = {};
    if (fd < 0 || tcgetattr(fd, &settings) < 0) return expect(false, "a terminal");
    settings.c_lflag |= TOSTOP;
    if (tcsetattr(fd, TCSANOW, &settings) < 0) return expect(false, "tcsetattr");
    mp::Pool pool({.processes = 1, .start_method = method});
    auto used = pool.submit(use_terminal);
    int failures = expect(used.wait_for(test::kPatience), "it does not stop");
    auto [reads, writes] = used.get();
    failures += expect(reads == EIO, "reading is an error");
    failures += expect(writes == 0, "writing works");
    return failures + expect(!pool.stats().workers[0].stopped, "it was not stopped");
}

}  // namespace

std::optional<int> test::run_shortage_program(const std::string& what, mp::StartMethod method) {
    if (what == "shortage-of-descriptors") return shortage(method, "descriptors");
    if (what == "shortage-of-processes") return shortage(method, "processes");
    if (what == "shortage-of-memory") return shortage(method, "memory");
    if (what == "idle-shortage") return idle_shortage(method);
    if (what == "growing-shortage") return growing_shortage(method);
    if (what == "lasting-shortage") return lasting_shortage(method);
    return {};
}

std::optional<int> test::run_service_program(const std::string& what, mp::StartMethod method) {
    if (what == "dropped-privileges") return dropped_privileges(method, false);
    if (what == "terminate-without-privileges") return dropped_privileges(method, true);
    if (what == "unending-worker") return unending_worker(method);
    if (what == "without-events") return without_events(method, false);
    if (what == "without-events-for-good") return without_events(method, true);
    if (what == "terminal") return terminal(method);
    return {};
}
