// What tasks leave running, where it becomes the application's own: in process 1 of a container,
// and in a subreaper. It is killed with its worker, and no zombie is left.
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <sidestep/pool.hpp>
#include <sidestep/process.hpp>

#include "support.hpp"

namespace worker_orphans_test {

using namespace sidestep;

namespace {

constexpr StartMethod kMethods[] = {StartMethod::spawn, StartMethod::fork, StartMethod::forkserver};

// Leaves children and grandchildren behind.
int leave_processes(int count) {
    for (int i = 0; i < count; ++i)
        if (::fork() == 0) {
            if (i % 2 == 0) (void)!::fork();
            for (;;) ::pause();
        }
    return ::getpid();
}
[[noreturn]] void die() {
    ::raise(SIGKILL);
    std::abort();
}

enum class Children { none, running, zombie };
Children look() {
    siginfo_t info = {};
    if (::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0) return Children::none;
    return info.si_pid == 0 ? Children::running : Children::zombie;
}

// 0: nothing was left at any time.
int leave_and_look(StartMethod method) {
    {
        Pool pool({.processes = 1, .start_method = method});
        pool.submit(leave_processes, 4).get();
        auto dies = pool.submit(die);
        dies.wait();
        if (!test::eventually([] { return look() == Children::running; })) return 1;
        pool.submit(leave_processes, 3).get();  // those are left by one that leaves in order
        pool.close();
        pool.join();
    }
    return look() == Children::none ? 0 : 2;
}

int wait_for(pid_t pid) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

}  // namespace

TEST_CASE("in process 1 of a pid namespace nothing is left of what tasks left", "[pool][orphans]") {
    if (::geteuid() != 0) {
        WARN("only root can make a pid namespace: nothing was tested");
        return;
    }
    for (StartMethod method : kMethods) {
        CAPTURE(to_string(method));
        pid_t outside = ::fork();
        if (outside == 0) {
            if (::unshare(CLONE_NEWPID | CLONE_NEWNS) < 0) ::_exit(50);
            pid_t first = ::fork();
            if (first != 0) ::_exit(wait_for(first));
            bool ready = ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                         ::mount("proc", "/proc", "proc", 0, nullptr) == 0;
            ::_exit(ready ? leave_and_look(method) : 51);
        }
        CHECK(wait_for(outside) == 0);
    }
}

TEST_CASE("in a subreaper nothing is left of what tasks left", "[pool][orphans]") {
    for (StartMethod method : kMethods) {
        CAPTURE(to_string(method));
        pid_t pid = ::fork();
        if (pid == 0) {
            ::prctl(PR_SET_CHILD_SUBREAPER, 1);
            ::_exit(leave_and_look(method));
        }
        CHECK(wait_for(pid) == 0);
    }
}

}  // namespace worker_orphans_test
