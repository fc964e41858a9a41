// Calls that fail while a child is started, told to, waited for: nothing is mistaken for something
// else, nothing is left, and the next child is the right one.
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <new>
#include <stdexcept>
#include <thread>

#include <catch2/catch.hpp>
#include <sidestep/process.hpp>

#include "faults.hpp"
#include "parent_fd.hpp"
#include "process_support.hpp"
#include "sys.hpp"
#include "zygote.hpp"

using namespace sidestep;
using Catch::Matchers::Contains;
using test::Call;
using test::Fault;

namespace {

void leave(int code) { exit_process(code); }

[[noreturn]] void leave_with_7(Fd) { leave_process(7); }
const BootEntry entry [[gnu::init_priority(200)]] (&leave_with_7);

// The exit code of a process that is to leave with this code; -1: it was not started.
int run_process(StartMethod method, int code) {
    Process child({.start_method = method}, leave, code);
    child.start();
    child.join();
    return *child.exitcode();
}

// Runs `body` in a fork of this process that is killed after the patience. -N: it died of signal N.
template <class Body>
int in_fork(Body body) {
    pid_t pid = ::fork();
    if (pid == 0) {
        int code = 99;
        try {
            code = body();
        } catch (...) {
        }
        ::_exit(code);
    }
    Fd pidfd = sys::pidfd_open(pid);
    if (!sys::wait_for_exit(pidfd.get(), sys::Clock::now() + test::kPatience))
        (void)sys::pidfd_send_signal(pidfd.get(), SIGKILL);
    return sys::wait_pidfd(pidfd.get(), true).returncode();
}

// Starts the process with this fault. True: it began. What it throws must say what happened.
bool start_with(Process& child, Call call, int error, int skip, int times, bool& happened) {
    bool started = true;
    Fault fault(call, error, skip, times);
    try {
        child.start();
    } catch (const std::system_error& e) {
        started = e.code().value() != error && e.code().value() != ENOMEM;
    } catch (const std::bad_alloc&) {
        started = false;
    }
    happened = fault.happened();
    return started;
}

}  // namespace

TEST_CASE("whatever call fails once in a start, each process is the right one, and none is left",
          "[process][fault][injected]") {
    FOR_EACH_START_METHOD();
    auto call = GENERATE(Call::sendmsg, Call::recvmsg, Call::poll);
    auto error = GENERATE(ENOMEM, ENOBUFS);
    auto times = GENERATE(1, 40);
    CAPTURE(static_cast<int>(call), error, times);
    REQUIRE(run_process(method, 3) == 3);  // the server runs, and what is made once is made
    auto before = test::Resources::now();
    bool happened = true;
    for (int skip = 0; happened; ++skip) {
        CAPTURE(skip);
        int code = 10 + skip;
        Process child({.start_method = method}, leave, code);
        bool started = start_with(child, call, error, skip, times, happened);
        if (started) {
            child.join();
            CHECK(child.exitcode() == code);
            child.close();
        }
        CHECK(run_process(method, 100 + skip) == 100 + skip);
        CHECK(test::nothing_left_since(before));
    }
}

TEST_CASE("whatever allocation fails in a start, it throws, and nothing is left",
          "[process][fault][injected]") {
    FOR_EACH_START_METHOD();
    REQUIRE(run_process(method, 3) == 3);
    auto before = test::Resources::now();
    bool happened = true;
    int refused = 0;
    for (int skip = 0; happened; ++skip) {
        CAPTURE(skip);
        Process child({.start_method = method}, leave, 5);
        bool started = start_with(child, Call::allocation, ENOMEM, skip, 1, happened);
        refused += !started;
        if (started) {
            child.join();
            CHECK(child.exitcode() == 5);
            child.close();
        }
        CHECK(test::nothing_left_since(before));
    }
    CHECK(refused > 0);
    CHECK(run_process(method, 6) == 6);
}

TEST_CASE("an exception's report is read when there is memory again, or its loss is told",
          "[process][fault][injected]") {
    FOR_EACH_START_METHOD();
    for (int times : {1, 5, Fault::kEver}) {
        CAPTURE(times);
        Process child({.start_method = method}, [] { throw std::domain_error("the reason"); });
        child.start();
        REQUIRE(sys::wait_for_exit(child.sentinel(), sys::Clock::now() + test::kPatience));
        {
            Fault fault(Call::recvmsg, ENOMEM, 0, times);
            child.join();
        }
        CHECK(child.exitcode() == 1);
        if (times != Fault::kEver)
            CHECK_THROWS_AS(child.rethrow(), std::domain_error);
        else
            CHECK_THROWS_WITH(child.rethrow(), Contains("exited with code 1") &&
                                                   Contains("cannot be told: recvmsg"));
    }
}

// --- the fork server ---------------------------------------------------------------------------

TEST_CASE("a fork server that cannot answer, or is killed before it does, has lost no child",
          "[zygote][fault][injected]") {
    for (int error : {ENOBUFS, Fault::kKill}) {
        CAPTURE(error);
        auto before = test::Resources::now();
        {
            auto zygote = Zygote::fork_here();
            Launched child;
            {
                Fault fault(Call::sendmsg, error, 0, Fault::kEver, zygote->process().pid);
                child = zygote->launch(&leave_with_7, {});
                CHECK(fault.happened());
            }
            CHECK(child.pid > 0);
            CHECK(sys::wait_pidfd(child.pidfd.get(), true).code() == 7);
            CHECK_THROWS_WITH(zygote->launch(&leave_with_7, {}),
                              Contains("the fork server (process"));
        }
        CHECK(test::nothing_left_since(before));
    }
}

TEST_CASE("a fork server goes on after a request that it could not receive at once",
          "[zygote][fault][injected]") {
    auto zygote = Zygote::fork_here();
    Launched first = zygote->launch(&leave_with_7, {});  // it is past its own start
    CHECK(sys::wait_pidfd(first.pidfd.get(), true).code() == 7);
    Fault fault(Call::recvmsg, ENOMEM, 0, 3, zygote->process().pid);
    for (int i = 0; i < 3; ++i) {
        Launched child = zygote->launch(&leave_with_7, {});
        CHECK(sys::wait_pidfd(child.pidfd.get(), true).code() == 7);
    }
}

TEST_CASE("a fork server's owner goes although nothing can be waited for",
          "[zygote][fault][injected]") {
    auto before = test::Resources::now();
    auto method = GENERATE(StartMethod::fork, StartMethod::forkserver);
    auto launcher = make_launcher(method, "a test's child", 0);
    {
        Fault fault(Call::poll, ENOMEM, 0, Fault::kEver);
        launcher.reset();
    }
    CHECK(test::nothing_left_since(before));
}

// --- without memory ----------------------------------------------------------------------------

TEST_CASE("fork(2) needs no memory of ours, in a forked child neither", "[fork][fault][injected]") {
    CHECK(in_fork([] {
              Fault fault(Call::allocation, ENOMEM, 0, Fault::kEver);
              pid_t pid = ::fork();
              if (pid == 0) ::_exit(3);
              int status = 0;
              return ::waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 3 ? 0 : 1;
          }) == 0);
}

TEST_CASE("descriptors of a parent are closed in its children's children, too", "[fork][fault]") {
    CHECK(in_fork([] {
              sys::Pipe pipe = sys::make_pipe();
              int number = pipe.write_end.get();
              ParentFd kept(std::move(pipe.write_end));
              pid_t pid = ::fork();
              if (pid == 0) ::_exit(sys::is_open(number) ? 1 : 0);
              int status = 1;
              return ::waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 2;
          }) == 0);
}

TEST_CASE("a process ends in order without memory: hooks are run, daemons are ended",
          "[process][fault][injected]") {
    auto with_children = GENERATE(false, true);
    CHECK(in_fork([&] {
              static bool ran = false;
              auto wait_for_ever = [] {
                  for (;;) ::pause();
              };
              Process daemon({.daemon = true, .start_method = StartMethod::fork}, wait_for_ever);
              Process other({.start_method = StartMethod::fork}, leave, 4);
              if (with_children) {
                  at_exit([] { ran = true; });
                  daemon.start();
                  other.start();
              }
              {
                  Fault fault(Call::allocation, ENOMEM, 0, Fault::kEver);
                  run_exit_hooks();
              }
              if (ran != with_children) return 1;
              if (with_children && (daemon.is_alive() || other.exitcode() != 4)) return 2;
              return 0;
          }) == 0);
}
