#include "memory/participant.hpp"

#include <sys/syscall.h>

#include <set>
#include <thread>

#include <catch2/catch.hpp>

#include "processes.hpp"
#include "sandbox.hpp"
#include "spawn/copy_process.hpp"

namespace participant_test {

using sidestep::is_alive;
using sidestep::OwnerId;
using sidestep::this_process;

TEST_CASE("a process is itself, and its forked child is somebody else", "[ipc][participant]") {
    OwnerId self = this_process();
    CHECK(self == this_process());
    CHECK((self & sidestep::kUserBit) == 0);
    CHECK(sidestep::pid_of(self) == getpid());
    CHECK(is_alive(self));
    test::SharedPage<OwnerId> other;
    test::Child child([&] { *other = this_process(); });
    int pid = child.pid();
    CHECK(child.wait() == 0);
    CHECK(*other != self);
    CHECK(sidestep::pid_of(*other) == pid);
    CHECK_FALSE(is_alive(*other));
}

TEST_CASE("a stopped process lives, a zombie does not", "[ipc][participant]") {
    test::SharedPage<std::atomic<OwnerId>> id;
    test::Child child([&] {
        id->store(this_process());
        for (;;) pause();
    });
    REQUIRE(test::eventually([&] { return id->load() != 0; }));
    OwnerId other = id->load();
    CHECK(is_alive(other));
    child.signal(SIGSTOP);
    int status = 0;
    waitpid(child.pid(), &status, WUNTRACED);
    CHECK(is_alive(other));
    child.signal(SIGKILL);
    siginfo_t info = {};
    waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT);
    CHECK_FALSE(is_alive(other));  // nobody has reaped it
    child.wait();
    CHECK_FALSE(is_alive(other));
}

TEST_CASE("a process whose main thread has ended lives while another runs", "[ipc][participant]") {
    test::SharedPage<std::atomic<OwnerId>> id;
    test::Child child([&] {
        std::thread([&] {
            id->store(this_process());
            for (;;) pause();
        }).detach();
        ::syscall(SYS_exit, 0);  // pthread_exit() would unwind into the helper
    });
    REQUIRE(test::eventually([&] { return id->load() != 0; }));
    REQUIRE(test::eventually([&] {
        auto stat =
            sidestep::sys::read_file(("/proc/" + std::to_string(child.pid()) + "/stat").c_str());
        return stat && stat->find(") Z ") != std::string::npos;
    }));
    CHECK(is_alive(id->load()));
    child.kill();
    CHECK_FALSE(is_alive(id->load()));
}

TEST_CASE("a pid that was used again is not its former bearer", "[ipc][participant]") {
    OwnerId self = this_process();
    test::Child child([] {
        for (;;) pause();
    });
    // The child's pid with our start time or an older one: as if we had died and it came after.
    OwnerId former = (self & ~OwnerId(0x3fffff)) | static_cast<OwnerId>(child.pid());
    former ^= OwnerId(1) << 40;
    CHECK_FALSE(is_alive(former));
    // In another namespace nothing is known: it lives.
    CHECK(is_alive(former ^ OwnerId(1) << 60));
}

TEST_CASE("a living pid with no start time beside it is nobody", "[ipc][participant]") {
    test::Child child([] {
        for (;;) pause();
    });
    OwnerId domain = this_process() >> 54 << 54;
    for (int pid : {child.pid(), 1, 2, getpid()}) {
        CAPTURE(pid);
        CHECK_FALSE(is_alive(domain | static_cast<OwnerId>(pid)));
        CHECK_FALSE(is_alive(domain | static_cast<OwnerId>(pid) | sidestep::kUserBit));
    }
}

TEST_CASE("what another pid namespace's /proc says of our numbers is not believed",
          "[ipc][participant]") {
    CHECK(test::in_foreign_proc([] {
              OwnerId self = this_process();
              if (sidestep::pid_of(self) != 1) return 1;
              // Some start time, that of no process with this number: here, or out there.
              OwnerId holder = self ^ OwnerId(1) << 33;
              test::Child dead([] {});
              OwnerId gone = (holder & ~OwnerId(0x3fffff)) | static_cast<OwnerId>(dead.pid());
              (void)dead.wait();
              if (!is_alive(holder)) return 2;
              return is_alive(gone) ? 3 : 0;  // what the kernel tells of our numbers counts
          }) == 0);
}

TEST_CASE("a copy that a raw system call made is somebody else", "[ipc][participant]") {
    OwnerId self = this_process();
    sidestep::Copied copied = sidestep::copy_process(0, 0, sidestep::Rungs::all);
    if (copied.pid == 0) ::_exit(this_process() != self && is_alive(self) ? 0 : 1);
    sidestep::Fd pidfd(copied.pidfd);
    CHECK(sidestep::sys::wait_pidfd(pidfd.get(), true).code() == 0);
}

TEST_CASE("threads have names of their own", "[ipc][participant]") {
    std::uint64_t here = sidestep::this_thread(), there = 0;
    std::thread([&] { there = sidestep::this_thread(); }).join();
    CHECK(here != there);
    CHECK(here == sidestep::this_thread());
    test::SharedPage<std::uint64_t> forked;
    test::Child child([&] { *forked = sidestep::this_thread(); });
    child.wait();
    CHECK(*forked != here);
}

}  // namespace participant_test
