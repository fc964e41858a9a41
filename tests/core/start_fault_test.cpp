// Calls that fail while a child is started, told to, waited for: nothing is mistaken for something
// else, nothing is left, and the next child is the right one.
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>
#include <sidestep/process.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/subprocess.hpp>

#include "faults.hpp"
#include "process_support.hpp"
#include "start/boot_failure.hpp"
#include "start/zygote.hpp"
#include "sys/cpu_quota.hpp"
#include "sys/parent_fd.hpp"
#include "sys/sys.hpp"

namespace start_fault_test {

using namespace sidestep;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
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

TEST_CASE("whatever allocation fails in the start of a fork server, none is left",
          "[process][zygote][fault][injected]") {
    auto start = GENERATE(
        +[] { start_forkserver(); }, +[] { (void)Zygote::fork_here(); },
        +[] { (void)make_launcher(StartMethod::forkserver, "a child", 0); });
    start();
    stop_forkserver();
    auto before = test::Resources::now();
    int refused = 0;
    bool happened = true;
    for (int skip = 0; happened; ++skip) {
        CAPTURE(skip);
        {
            Fault fault(Call::allocation, ENOMEM, skip);
            try {
                start();
            } catch (const std::bad_alloc&) {
                ++refused;
            }
            happened = fault.happened();
        }
        stop_forkserver();
        REQUIRE(test::nothing_left_since(before));
    }
    CHECK(refused > 0);
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

TEST_CASE("a child of which neither it nor its fork server can tell goes with the fork server",
          "[zygote][fault][injected]") {
    auto before = test::Resources::now();
    {
        auto zygote = Zygote::fork_here();
        Launched first = zygote->launch(&leave_with_7, {});
        CHECK(sys::wait_pidfd(first.pidfd.get(), true).code() == 7);
        Fault fault(Call::sendmsg, ENOBUFS, 0, Fault::kEver, Fault::kForked);
        CHECK_THROWS_WITH(zygote->launch(&leave_with_7, {}), Contains("the fork server (process"));
        CHECK(fault.happened());
    }
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("a fork server goes on after an answer that it could not send at once",
          "[zygote][fault][injected]") {
    auto zygote = Zygote::fork_here();
    Launched first = zygote->launch(&leave_with_7, {});
    CHECK(sys::wait_pidfd(first.pidfd.get(), true).code() == 7);
    Fault fault(Call::sendmsg, ENOMEM, 0, 3, zygote->process().pid);
    for (int i = 0; i < 3; ++i) {
        Launched child = zygote->launch(&leave_with_7, {});
        CHECK(sys::wait_pidfd(child.pidfd.get(), true).code() == 7);
    }
}

TEST_CASE("an answer of the fork server that cannot be received for good leaves no child",
          "[zygote][fault][injected]") {
    auto before = test::Resources::now();
    {
        auto zygote = Zygote::fork_here();
        {
            Fault fault(Call::recvmsg, ENOMEM, 0, Fault::kEver);
            CHECK_THROWS_AS(zygote->launch(&leave_with_7, {}), std::system_error);
        }
        Launched child = zygote->launch(&leave_with_7, {});
        CHECK(sys::wait_pidfd(child.pidfd.get(), true).code() == 7);
        Fault fault(Call::recvmsg, ENOMEM, 0, Fault::kEver);
        CHECK_THROWS_AS(zygote->launch(&leave_with_7, {}), std::system_error);
        zygote.reset();
    }
    CHECK(test::nothing_left_since(before));
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

// --- exceptions that cross ---------------------------------------------------------------------

namespace {

void throw_out_of_range() { throw std::out_of_range("item 17 of a table of sixteen"); }
void throw_code() { throw std::system_error(EXDEV, std::generic_category(), "two disks"); }

// What is caught when the exception is thrown: its type's name and its message.
std::string told(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const RemoteError& e) {
        return e.type_name() + ", remote: " + e.what();
    } catch (const std::out_of_range& e) {
        return std::string("std::out_of_range: ") + e.what();
    } catch (const std::system_error& e) {
        return std::string("std::system_error: ") + e.what();
    } catch (const std::bad_alloc&) {
        return "std::bad_alloc";
    }
}

}  // namespace

TEST_CASE("an exception that is read without memory is none of another type",
          "[process][fault][injected]") {
    auto throw_it = GENERATE(&throw_out_of_range, &throw_code);
    detail::HeapBuffer buffer;
    try {
        throw_it();
    } catch (...) {
        OutputArchive archive(buffer);
        detail::save_current_exception(archive, "  in a test\n");
    }
    auto load = [&] {
        InputArchive archive(buffer.bytes());
        return detail::load_exception(archive);
    };
    const std::string whole = told(load());
    bool happened = true;
    int refused = 0;
    for (int skip = 0; happened; ++skip) {
        std::exception_ptr error;
        {
            Fault fault(Call::allocation, ENOMEM, skip);
            try {
                error = load();
            } catch (const std::bad_alloc&) {
                error = std::current_exception();
            }
            happened = fault.happened();
        }
        std::string text = told(error);
        refused += text != whole;
        CHECK_THAT(text, Equals(whole) || Equals("std::bad_alloc"));
    }
    CHECK(refused > 0);
}

TEST_CASE("an exception that is written without memory keeps its type and message",
          "[process][fault][injected]") {
    auto is_plain = GENERATE(true, false);
    for (int times : {1, Fault::kEver}) {
        bool happened = true;
        for (int skip = 0; happened; ++skip) {
            CAPTURE(times, skip);
            // As a task's reply is: memory that is there already.
            detail::HeapBuffer buffer;
            buffer.write(std::string(152, ' ').data(), 152);
            buffer.clear();
            OutputArchive archive(buffer);
            try {
                is_plain ? throw_out_of_range() : throw_code();
            } catch (...) {
                Fault fault(Call::allocation, ENOMEM, skip, times);
                detail::save_current_exception(archive, "  in a test\n");
                happened = fault.happened();
            }
            InputArchive input(buffer.bytes());
            std::string text = told(detail::load_exception(input));
            input.expect_end();
            const std::string disks = ": two disks: Invalid cross-device link";
            if (is_plain)
                CHECK(text == "std::out_of_range: item 17 of a table of sixteen");
            else  // its code is more than a message
                CHECK_THAT(text, Equals("std::system_error" + disks) ||
                                     Equals("std::system_error, remote" + disks));
        }
    }
}

// --- without memory ----------------------------------------------------------------------------

TEST_CASE("the quotas of CPUs are found, or there is no memory for that", "[fault][injected]") {
    const auto quota = cpu_quota();
    bool happened = true;
    int refused = 0;
    for (int skip = 0; happened; ++skip) {
        bool is_right = false;
        {
            Fault fault(Call::allocation, ENOMEM, skip);
            try {
                is_right = cpu_quota() == quota;
            } catch (const std::bad_alloc&) {
                ++refused;
                is_right = true;
            }
            happened = fault.happened();
        }
        CHECK(is_right);
    }
    CHECK(refused > 0);
}

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

TEST_CASE("why a child did not start is told later if there is no memory now",
          "[process][fault][injected]") {
    const std::string why = "a text that is too long for a string without memory of its own";
    CHECK(in_fork([&] {
              sys::SocketPair control = sys::make_socketpair();
              begin_boot(control.second.get());
              report_boot_failure(why.c_str());
              try {
                  Fault fault(Call::allocation, ENOMEM);
                  (void)take_boot_failure(control.first.get());
                  return 1;
              } catch (const std::bad_alloc&) {
              }
              return take_boot_failure(control.first.get()) == why ? 0 : 2;
          }) == 0);
}

TEST_CASE("a forked child starts programs, whatever another thread was at", "[subprocess][fault]") {
    constexpr int kGivenUp = 64, kForks = 60;
    std::vector<int> given_up;
    for (int i = 0; i < kGivenUp; ++i) {
        subprocess::Popen child({"sleep", "1000"});
        given_up.push_back(child.pid());
        child.detach();
    }
    std::atomic<bool> over{false};
    std::thread busy([&] {  // looks after those that were given up, again and again
        while (!over) try {
                (void)subprocess::run({std::string("no\0name", 7)});
            } catch (const std::invalid_argument&) {  // that is seen behind the look
            }
    });
    int wrong = 0;
    for (int i = 0; i < kForks && wrong == 0; ++i)
        wrong = in_fork([] { return subprocess::run({"true"}).returncode; });
    over = true;
    busy.join();
    CHECK(wrong == 0);
    for (int pid : given_up) ::kill(pid, SIGKILL);
    CHECK(test::eventually([&] {  // whoever comes next reaps them
        (void)subprocess::run({"true"});
        return ::waitpid(-1, nullptr, WNOHANG) < 0;
    }));
}

}  // namespace start_fault_test
