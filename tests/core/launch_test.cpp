#include "start/launch.hpp"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <iostream>
#include <set>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>
#include <sidestep/subprocess.hpp>

#include "launch_support.hpp"
#include "support.hpp"

namespace launch_test {

using namespace sidestep;
using test::launcher;

namespace {

const StartMethod kMethods[] = {StartMethod::spawn, StartMethod::fork, StartMethod::forkserver};

int in_fork(const std::function<int()>& body) {
    pid_t pid = fork();
    if (pid == 0) {
        int code = 99;
        try {
            code = body();
        } catch (...) {
        }
        _exit(code);
    }
    Fd pidfd = sys::pidfd_open(pid);
    return sys::wait_pidfd(pidfd.get(), true).returncode();
}

// Orphans become our children for a scope, and are reaped at its end.
class Subreaper {
  public:
    Subreaper() { prctl(PR_SET_CHILD_SUBREAPER, 1); }
    ~Subreaper() {
        (void)test::eventually([] {
            pid_t reaped;
            do reaped = waitpid(-1, nullptr, WNOHANG);
            while (reaped > 0);
            return reaped < 0 && errno == ECHILD;
        });
        prctl(PR_SET_CHILD_SUBREAPER, 0);
    }
};

}  // namespace

TEST_CASE("a launched child is ours, leads a group of its own, and its exit status is exact",
          "[core][launch]") {
    for (StartMethod method : kMethods) {
        CAPTURE(static_cast<int>(method));
        auto from = launcher(method);
        for (int code : {0, 1, 7, 255}) {
            Launched child = from->launch(&test::report_main);
            test::ChildReport report = test::receive_report(child);
            CHECK(report.pid == child.pid);
            CHECK(report.parent == getpid());
            CHECK(report.group == child.pid);
            CHECK_FALSE(report.boot_variable);
            CHECK_FALSE(report.null_control);
            CHECK(sys::wait_pidfd(child.pidfd.get(), false).running());
            test::send_number(child, code);
            ExitStatus status = test::wait_for(child);
            CHECK(status.exited());
            CHECK(status.code() == code);
        }
    }
}

TEST_CASE("a child that dies of a signal is seen to", "[core][launch]") {
    for (StartMethod method : kMethods) {
        CAPTURE(static_cast<int>(method));
        auto from = launcher(method);
        for (int number : {SIGKILL, SIGTERM, SIGINT, SIGHUP}) {
            Launched child = from->launch(&test::signal_main);
            test::send_number(child, number);
            CHECK(test::wait_for(child).signal() == number);
        }
    }
}

TEST_CASE("many children at a time keep their statuses apart", "[core][launch]") {
    for (StartMethod method : {StartMethod::fork, StartMethod::forkserver}) {
        auto from = launcher(method);
        std::vector<Launched> children;
        for (int i = 0; i < 40; ++i) children.push_back(from->launch(&test::report_main));
        std::set<int> pids;
        for (std::size_t i = children.size(); i-- > 0;) {
            pids.insert(test::receive_report(children[i]).pid);
            test::send_number(children[i], static_cast<int>(i));
        }
        CHECK(pids.size() == children.size());
        for (std::size_t i = 0; i < children.size(); ++i)
            CHECK(test::wait_for(children[i]).code() == static_cast<int>(i));
    }
}

TEST_CASE("a child is killed when its lifeline closes", "[core][launch]") {
    for (StartMethod method : kMethods) {
        CAPTURE(static_cast<int>(method));
        auto from = launcher(method);
        Launched child = from->launch(&test::report_main);
        CHECK(test::receive_report(child).pid == child.pid);
        child.lifeline.reset();
        CHECK(test::wait_for(child).signal() == SIGKILL);
    }
}

TEST_CASE("a child leaves by itself when the control socket closes before its first message",
          "[core][launch]") {
    for (StartMethod method : kMethods) {
        auto from = launcher(method);
        Launched child = from->launch(&test::report_main);
        test::receive_report(child);
        child.control.reset();
        CHECK(test::wait_for(child).code() == 90);  // as report_main answers an end of file
    }
}

TEST_CASE("kill -9 of the parent takes all children with it, and the fork server",
          "[core][launch]") {
    for (StartMethod method : kMethods) {
        CAPTURE(static_cast<int>(method));
        Subreaper reaper;
        sys::Pipe alive = sys::make_pipe();  // each child, and the parent, hold its write end
        int code = in_fork([&] {
            alive.read_end.reset();
            auto from = launcher(method);
            std::vector<Launched> children;
            for (int i = 0; i < 3; ++i) {
                children.push_back(from->launch(&test::hold_main));
                test::send_number(children.back(), 0, &alive.write_end);
                std::byte answer;
                sys::receive_message(children.back().control.get(), {&answer, 1});
            }
            kill(getpid(), SIGKILL);
            return 1;
        });
        CHECK(code == -SIGKILL);
        alive.write_end.reset();
        CHECK(test::reaches_end(alive.read_end));
    }
}

TEST_CASE("an exception that leaves a child's main is its last words", "[core][launch]") {
    for (StartMethod method : kMethods) {
        CAPTURE(static_cast<int>(method));
        sys::Pipe errors = sys::make_pipe();
        int code = in_fork([&] {
            dup2(errors.write_end.get(), STDERR_FILENO);
            auto from = launcher(method);
            return test::wait_for(from->launch(&test::throw_main)).code();
        });
        CHECK(code == 1);
        errors.write_end.reset();
        char text[512] = {};
        CHECK(read(errors.read_end.get(), text, sizeof text - 1) > 0);
        CHECK_THAT(text, Catch::Contains("cannot start: the reason it gave"));
    }
}

TEST_CASE("what was in the parent's buffers is written once, what a child prints is flushed",
          "[core][launch]") {
    for (StartMethod method : kMethods) {
        CAPTURE(static_cast<int>(method));
        sys::Pipe output = sys::make_pipe();
        int code = in_fork([&] {
            dup2(output.write_end.get(), STDOUT_FILENO);
            std::printf("parent-stdio ");
            std::cout << "parent-stream ";
            auto from = launcher(method);
            for (int i = 0; i < 2; ++i)
                if (!test::wait_for(from->launch(&test::print_main)).success()) return 1;
            std::cout.flush();
            std::fflush(nullptr);
            return 0;
        });
        CHECK(code == 0);
        output.write_end.reset();
        std::string text(4096, '\0');
        text.resize(static_cast<std::size_t>(
            std::max<ssize_t>(0, read(output.read_end.get(), text.data(), text.size()))));
        auto count = [&](const std::string& word) {
            int n = 0;
            for (std::size_t at = 0; (at = text.find(word, at)) != std::string::npos; ++at) ++n;
            return n;
        };
        CHECK(count("parent-stdio") == 1);
        CHECK(count("parent-stream") == 1);
        CHECK(count("child-stdio") == 2);
        CHECK(count("child-stream") == 2);
    }
}

TEST_CASE("fork sees the memory as it was when the launcher was made, spawn starts afresh",
          "[core][launch]") {
    auto counter_in_child = [](Launcher& from) {
        Launched child = from.launch(&test::report_main);
        int counter = test::receive_report(child).counter;
        test::send_number(child, 0);
        CHECK(test::wait_for(child).success());
        return counter;
    };
    test::launch_counter = 5;
    auto forked = launcher(StartMethod::fork), spawned = launcher(StartMethod::spawn);
    auto served = launcher(StartMethod::forkserver);
    test::launch_counter = 6;
    CHECK(counter_in_child(*forked) == 5);
    CHECK(counter_in_child(*spawned) == 0);
    CHECK(counter_in_child(*served) == 0);
    test::launch_counter = 0;
}

TEST_CASE("fork is refused beside other threads, unless it is asked for by name",
          "[core][launch]") {
    std::atomic<bool> leave{false};
    std::thread other([&] { leave.wait(false); });
    CHECK_THROWS_AS(launcher(StartMethod::fork), std::logic_error);
    CHECK_THROWS_WITH(launcher(StartMethod::fork),
                      Catch::StartsWith("a test's child cannot be forked: this process has 1 other "
                                        "thread") &&
                          Catch::Contains("StartMethod::spawn") &&
                          Catch::Contains("fork_threaded"));
    CHECK(make_launcher(StartMethod::fork, "a test's child", 1));  // known to be harmless
    auto by_name = launcher(StartMethod::fork_threaded);
    Launched child = by_name->launch(&test::report_main);
    test::receive_report(child);
    test::send_number(child, 3);
    CHECK(test::wait_for(child).code() == 3);
    for (StartMethod method : {StartMethod::spawn, StartMethod::forkserver})
        CHECK(launcher(method));
    leave = true;
    leave.notify_all();
    other.join();
}

TEST_CASE("a thread that was joined just now is no other thread", "[core][launch]") {
    for (int i = 0; i < 100; ++i) {
        std::thread([] {}).join();
        CHECK_NOTHROW(launcher(StartMethod::fork));
    }
}

TEST_CASE("children start while signals interrupt every system call", "[core][launch]") {
    struct sigaction tick = {}, before = {};
    tick.sa_handler = [](int) {};  // no SA_RESTART
    REQUIRE(sigaction(SIGALRM, &tick, &before) == 0);
    itimerval interval = {{0, 2000}, {0, 2000}}, off = {};
    REQUIRE(setitimer(ITIMER_REAL, &interval, nullptr) == 0);
    for (StartMethod method : kMethods) {
        CAPTURE(static_cast<int>(method));
        auto from = launcher(method);
        for (int i = 0; i < 20; ++i) {
            Launched child = from->launch(&test::report_main);
            CHECK(test::receive_report(child).pid == child.pid);
            test::send_number(child, i);
            CHECK(test::wait_for(child).code() == i);
        }
    }
    CHECK(setitimer(ITIMER_REAL, &off, nullptr) == 0);
    CHECK(sigaction(SIGALRM, &before, nullptr) == 0);
}

TEST_CASE("a program that has not called init() is told to, and forks all the same",
          "[core][launch]") {
    auto done = subprocess::run({SIDESTEP_TEST_CHILDREN "/no_init_child"},
                                {.capture_output = true, .timeout = test::kPatience});
    CHECK(done.returncode == 0);
    CHECK(done.std_err.empty());
    for (const char* method : {"spawn", "forkserver"})
        CHECK_THAT(done.std_out, Catch::Contains(std::string(method) +
                                                 ": a test's child cannot be started: "
                                                 "sidestep::init() was not called. Make it the "
                                                 "first statement of main()"));
    CHECK_THAT(done.std_out, Catch::Contains("fork: exited with code 5"));
    CHECK_THAT(done.std_out, Catch::Contains("initialized: 0"));
}

}  // namespace launch_test
