// Waiting, polling, scope exit and destruction: the contracts of CPython's test_subprocess.
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <sstream>
#include <thread>

#include "py_support.hpp"
#include "sys/sys.hpp"

namespace py_wait_test {

using namespace py;

TEST_CASE("poll tells that a child runs, and then its code again and again",
          "[subprocess][py:ProcessTestCase.test_poll]") {
    sp::Popen child({"head", "-c", "1"}, {.std_in = sp::PIPE, .std_out = sp::DEVNULL});
    CHECK_FALSE(child.poll());
    CHECK_FALSE(child.returncode());
    child.std_in().write("A");
    child.wait();
    CHECK(child.poll() == 0);
    CHECK(child.poll() == 0);
}

TEST_CASE("wait returns the code again and again", "[subprocess][py:ProcessTestCase.test_wait]") {
    sp::Popen child({"true"});
    CHECK(child.wait() == 0);
    CHECK(child.wait() == 0);
}

TEST_CASE("wait with a timeout throws it, and leaves the child alone",
          "[subprocess][py:ProcessTestCase.test_wait_timeout]") {
    sp::Popen child({"cat"}, {.std_in = sp::PIPE});
    auto expired = thrown<sp::TimeoutExpired>([&] { child.wait(100us); });
    REQUIRE(expired);
    CHECK(expired->timeout() == 100us);
    CHECK(contains_all(expired->what(), {"cat", "0.0001"}));
    child.std_in().close();
    CHECK(child.wait(test::kPatience) == 0);
}

TEST_CASE("a negative timeout has expired already",
          "[subprocess][py:ProcessTestCase.test_wait_negative_timeout]") {
    sp::Popen child({"cat"}, {.std_in = sp::PIPE});
    auto expired = thrown<sp::TimeoutExpired>([&] { child.wait(-1ms); });
    REQUIRE(expired);
    CHECK(expired->timeout() == -1ms);
    child.std_in().close();
    CHECK(child.wait() == 0);
}

TEST_CASE("two threads wait for one child, and both get its code",
          "[subprocess][py:ProcessTestCase.test_threadsafe_wait]") {
    sp::Popen child({"sleep", "1000"});
    CHECK_FALSE(child.returncode());
    std::optional<int> first_poll = 0, after_kill, after_second_wait;
    int waiter = this_thread_id();
    std::thread killer([&] {
        eventually([&] { return is_asleep(waiter); });  // it is in wait()
        first_poll = child.poll();
        child.kill();
        child.wait();
        after_kill = child.returncode();
        child.wait();
        after_second_wait = child.returncode();
    });
    int with_timeout = child.wait(test::kPatience);
    int again = child.wait();
    killer.join();
    CHECK(with_timeout == -SIGKILL);
    CHECK(again == -SIGKILL);
    CHECK_FALSE(first_poll);
    CHECK(after_kill == -SIGKILL);
    CHECK(after_second_wait == -SIGKILL);
}

TEST_CASE("with SIGCHLD ignored, waiting ends without an error, and the status is lost",
          "[subprocess][py:POSIXProcessTestCase.test_wait_when_sigchild_ignored]") {
    IgnoredSignal ignored(SIGCHLD);  // the kernel reaps, and throws the status away
    sp::Popen child({"false"});
    CHECK(child.wait() == 255);  // not 0: nobody knows whether it succeeded
    CHECK(child.exit_status().lost());
    CHECK(sp::run({"true"}).status.lost());
}

TEST_CASE("a stopped child has not ended", "[subprocess][py:POSIXProcessTestCase.test_stopped]") {
    sp::Popen child({"cat"}, {.std_in = sp::PIPE});
    child.send_signal(SIGSTOP);
    siginfo_t info = {};
    auto pid = static_cast<id_t>(child.pid());
    CHECK(waitid(P_PID, pid, &info, WSTOPPED | WNOWAIT) == 0);  // it is stopped now
    CHECK_FALSE(child.poll());
    CHECK_FALSE(child.wait_for(10ms));
    child.send_signal(SIGCONT);
    child.std_in().close();
    CHECK(child.wait() == 0);
}

// The object goes before the child does. CPython keeps a list of such children, and reaps them
// when the next Popen is made; so does OnDestroy::detach.
TEST_CASE("a child that is dropped while it runs is reaped by a later start",
          "[subprocess][py:POSIXProcessTestCase.test_zombie_fast_process_del]") {
    Gate gate;
    int pid = 0;
    {
        sp::Popen child({"sh", "-c", "read go <&3"}, {.std_out = sp::PIPE,
                                                      .std_err = sp::PIPE,
                                                      .pass_fds = gate.pass(),
                                                      .on_destroy = sp::OnDestroy::detach});
        pid = child.pid();
    }
    CHECK_FALSE(is_zombie(pid));
    CHECK_FALSE(is_reaped(pid));  // it runs on
    gate.open();
    CHECK(eventually([&] { return is_zombie(pid); }));
    sp::call({"true"});
    CHECK(eventually([&] { return is_reaped(pid); }));
}

TEST_CASE("a child that is dropped and then killed is reaped even by a start that fails",
          "[subprocess][py:POSIXProcessTestCase.test_leak_fast_process_del_killed]") {
    test::Resources before = test::Resources::now();
    int pid = 0;
    {
        sp::Popen child(
            {"sleep", "1000"},
            {.std_out = sp::PIPE, .std_err = sp::PIPE, .on_destroy = sp::OnDestroy::detach});
        pid = child.pid();
    }
    kill(pid, SIGKILL);
    CHECK(eventually([&] { return is_zombie(pid); }));
    CHECK(finds_no_program(
        [] { sp::Popen child(kMissing, {.std_out = sp::PIPE, .std_err = sp::PIPE}); }));
    CHECK(eventually([&] { return is_reaped(pid); }));
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("the end of a scope closes the pipes and waits",
          "[subprocess][py:ContextManagerTests.test_pipe]"
          "[py:ContextManagerTests.test_returncode]") {
    test::Resources before = test::Resources::now();
    Gate gate;
    int pid = 0;
    std::thread opener;
    {
        sp::Popen child({"sh", "-c", "printf stdout; printf stderr >&2; read go <&3; exit 100"},
                        {.std_out = sp::PIPE, .std_err = sp::PIPE, .pass_fds = gate.pass()});
        pid = child.pid();
        CHECK(child.std_out().read(6) == "stdout");
        CHECK(child.std_err().read(6) == "stderr");
        int main_thread = this_thread_id();
        opener = std::thread([&gate, main_thread] {
            eventually([&] { return is_asleep(main_thread); });  // in the destructor
            gate.open();
        });
    }
    CHECK(is_reaped(pid));
    opener.join();
    CHECK(test::Resources::now().fds.size() <= before.fds.size() + 1);  // the gate's
}

TEST_CASE("after the pipes have been read, wait has the code",
          "[subprocess][py:ContextManagerTests.test_returncode]") {
    sp::Popen child({"sh", "-c", "exit 100"});
    child.wait();
    CHECK(child.returncode() == 100);
    CHECK(child.exit_status().code() == 100);
}

TEST_CASE("a scope whose child cannot start leaves nothing behind",
          "[subprocess][py:ContextManagerTests.test_invalid_args]") {
    test::Resources before = test::Resources::now();
    CHECK(finds_no_program([] {
        sp::Popen child(kMissing, {.std_out = sp::PIPE, .std_err = sp::PIPE});
        child.wait();
    }));
    CHECK(test::nothing_left_since(before));
}

TEST_CASE("a broken pipe at the end does not keep anyone from waiting",
          "[subprocess][py:ContextManagerTests.test_broken_pipe_cleanup]") {
    const std::string text(kMoreThanAPipe, 'x');
    sp::Options options = {.bufsize = 2 * static_cast<int>(kMoreThanAPipe), .std_in = sp::PIPE};
    sp::Popen child({"true"}, options);
    child.std_in().write(text);  // held back in the buffer
    CHECK_FALSE(child.returncode());
    auto error = thrown<std::system_error>([&] { child.std_in().close(); });
    CHECK((error && error->code().value() == EPIPE));
    CHECK(child.std_in().closed());
    CHECK(child.wait() == 0);
    int pid = 0;
    {
        sp::Popen dropped({"true"}, options);
        pid = dropped.pid();
        dropped.std_in().write(text);
    }
    CHECK(is_reaped(pid));
}

TEST_CASE("Popen describes itself: command and state, long commands cut",
          "[subprocess][py:ProcessTestCase.test_repr]") {
    sp::Popen child({"sh", "-c", "read x; exit 123"}, {.std_in = sp::PIPE});
    std::string running = child.describe();
    CHECK(contains_all(running, {"Popen", "sh -c", std::to_string(child.pid()), "running"}));
    child.communicate("x\n");
    std::ostringstream streamed;
    streamed << child;
    CHECK(contains_all(streamed.str(), {"Popen", "sh -c", "123"}));
    CHECK_FALSE(contains(streamed.str(), "running"));
    CHECK(streamed.str() == child.describe());
    sp::Popen shell("true", {.shell = true});
    CHECK(contains(shell.describe(), "true"));
    sp::Popen path(fs::path("/bin/true"));
    CHECK(contains(path.describe(), "/bin/true"));
    sp::Popen lengthy({"true", "--my-opts", std::string(1000, 'a')});
    CHECK(contains_all(lengthy.describe(), {"--my-opts", "aaa...", "running"}));
    CHECK(lengthy.describe().size() < 200);
    lengthy.wait();
}

}  // namespace py_wait_test
