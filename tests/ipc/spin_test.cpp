#include "sync/spin.hpp"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <iterator>
#include <thread>

#include <catch2/catch.hpp>

#include "support.hpp"

namespace spin_test {

using namespace std::chrono_literals;
namespace sys = sidestep::sys;

namespace {

// From here on this process gets no thread and no child: EAGAIN, as at a limit.
bool refuse_threads() {
    constexpr std::uint32_t kRefused = SECCOMP_RET_ERRNO | EAGAIN;
    sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, kRefused),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog program = {std::size(rules), rules};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

}  // namespace

TEST_CASE("the cost of a wake-up is measured once, and is at most fifty microseconds",
          "[ipc][spin]") {
    cpu_set_t before, after;
    REQUIRE(sched_getaffinity(0, sizeof before, &before) == 0);
    std::chrono::nanoseconds cost = sidestep::wake_up_cost();
    REQUIRE(sched_getaffinity(0, sizeof after, &after) == 0);
    CHECK(CPU_EQUAL(&before, &after));
    CHECK(cost > 0ns);
    CHECK(cost <= 50us);
    CHECK(sidestep::wake_up_cost() == cost);
}

TEST_CASE("where no thread can be had to measure with, the cost of a wake-up is guessed",
          "[ipc][spin]") {
    pid_t child = fork();
    if (child == 0) {
        if (!refuse_threads()) _exit(77);
        bool measured = sidestep::measure_wake_up().has_value();
        std::chrono::nanoseconds cost = sidestep::wake_up_cost();
        _exit((measured ? 1 : 0) + (cost > 0ns && cost <= 50us ? 0 : 2));
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status));
    CHECK((WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77));
    CHECK(sidestep::measure_wake_up().has_value());
}

TEST_CASE("who has one CPU only does not spin", "[ipc][spin]") {
    CHECK(sidestep::spin_budget() == (sys::usable_cpus() == 1 ? 0ns : sidestep::wake_up_cost()));
}

TEST_CASE("a spin ends when it is done, at once if it was before", "[ipc][spin]") {
    int asked = 0;
    CHECK(sidestep::spin_until(1h, [&] { return ++asked == 1; }));
    CHECK(asked == 1);
    CHECK(sidestep::spin_until(1h, [&] { return ++asked == 100; }));
    CHECK(asked == 100);
    std::atomic<bool> set{false};
    std::thread setter([&] { set = true; });
    CHECK(sidestep::spin_until(test::kPatience, [&] { return set.load(); }));
    setter.join();
}

TEST_CASE("a spin without a budget asks once; with one, it gives up", "[ipc][spin]") {
    int asked = 0;
    CHECK_FALSE(sidestep::spin_until(0ns, [&] { return ++asked, false; }));
    CHECK(asked == 1);
    CHECK_FALSE(sidestep::spin_until(1ns, [&] { return ++asked, false; }));
    CHECK(asked > 2);
    CHECK(sidestep::spin_until(0ns, [] { return true; }));
}

}  // namespace spin_test
