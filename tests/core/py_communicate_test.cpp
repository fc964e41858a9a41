// communicate() and the pipes' capacity: the contracts of CPython's test_subprocess.
#include <fcntl.h>
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <thread>

#include "py_support.hpp"
#include "sys/sys.hpp"

namespace py_communicate_test {

using namespace py;

namespace {

sp::Options all_pipes() { return {.std_in = sp::PIPE, .std_out = sp::PIPE, .std_err = sp::PIPE}; }

// A child that has ended and waits to be reaped: nobody reads its std_in any more.
sp::Popen ended_child(sp::Options options) {
    sp::Popen child({"true"}, options);
    eventually([&] { return is_zombie(child.pid()); });
    return child;
}

int capacity(int fd) { return fcntl(fd, F_GETPIPE_SZ); }
int default_capacity() { return capacity(sidestep::sys::make_pipe().write_end.get()); }

}  // namespace

TEST_CASE("communicate sends input",
          "[subprocess][py:ProcessTestCase.test_communicate_stdin]"
          "[py:ContextManagerTests.test_communicate_stdin]") {
    sp::Popen child({"sh", "-c", "test \"$(cat)\" = pear && exit 47"}, {.std_in = sp::PIPE});
    child.communicate("pear");
    CHECK(child.returncode() == 47);
}

TEST_CASE("communicate returns the one stream that is a pipe, and nothing for the other",
          "[subprocess][py:ProcessTestCase.test_communicate_stdout]"
          "[py:ProcessTestCase.test_communicate_stderr]") {
    sp::Popen out({"printf", "pineapple"}, {.std_out = sp::PIPE});
    sp::Output from_out = out.communicate();
    CHECK(from_out.std_out == "pineapple");
    CHECK(from_out.std_err.empty());
    sp::Popen err({"sh", "-c", "printf pineapple >&2"}, {.std_err = sp::PIPE});
    sp::Output from_err = err.communicate();
    CHECK(from_err.std_out.empty());
    CHECK(from_err.std_err == "pineapple");
}

TEST_CASE("communicate writes and reads all three streams",
          "[subprocess][py:ProcessTestCase.test_communicate]") {
    sp::Popen child({"sh", "-c", "printf pineapple >&2; exec cat"}, all_pipes());
    sp::Output output = child.communicate("banana");
    CHECK(output.std_out == "banana");
    CHECK(output.std_err == "pineapple");
    CHECK(child.returncode() == 0);
}

TEST_CASE("communicate after a timeout loses neither output nor pending input",
          "[subprocess][py:ProcessTestCase.test_communicate_timeout]") {
    Gate gate;
    sp::Options options = all_pipes();
    options.pass_fds = gate.pass();
    options.universal_newlines = true;
    sp::Popen child({"sh", "-c", "echo pineapple >&2; read go <&3; echo pear >&2; exec cat"},
                    options);
    CHECK_THROWS_AS(child.communicate("banana", 50ms), sp::TimeoutExpired);
    CHECK_FALSE(child.poll());  // it was not killed
    gate.open();
    sp::Output output = child.communicate();
    CHECK(output.std_out == "banana");
    CHECK(output.std_err == "pineapple\npear\n");
}

TEST_CASE("a timeout amid large output loses nothing of it",
          "[subprocess][py:ProcessTestCase.test_communicate_timeout_large_output]") {
    Gate gate;
    const char* command =
        "for i in 1 2; do head -c 65536 /dev/zero; done; read go <&3;"
        "for i in 3 4; do head -c 65536 /dev/zero; done";
    sp::Popen child({"sh", "-c", command}, {.std_out = sp::PIPE, .pass_fds = gate.pass()});
    CHECK_THROWS_AS(child.communicate({}, 50ms), sp::TimeoutExpired);
    gate.open();
    CHECK(child.communicate().std_out.size() == 4 * 65536);
}

TEST_CASE("communicate closes every pipe there is",
          "[subprocess][py:ProcessTestCase.test_communicate_pipe_fd_leak]") {
    for (int mask = 1; mask < 8; ++mask) {
        sp::Options options;
        if (mask & 1) options.std_in = sp::PIPE;
        if (mask & 2) options.std_out = sp::PIPE;
        if (mask & 4) options.std_err = sp::PIPE;
        test::Resources before = test::Resources::now();
        sp::Popen child({"true"}, options);
        child.communicate();
        bool closed =
            child.std_in().closed() && child.std_out().closed() && child.std_err().closed();
        CHECK(closed);
        child = sp::Popen({"true"});  // drops the pidfd
        child.wait();
        CHECK(test::Resources::now().fds.size() <= before.fds.size() + 1);
    }
}

TEST_CASE("communicate without any pipe returns nothing, and waits",
          "[subprocess][py:ProcessTestCase.test_communicate_returns]") {
    sp::Popen child({"sh", "-c", "exit 47"});
    sp::Output output = child.communicate();
    CHECK(output.std_out.empty());
    CHECK(output.std_err.empty());
    CHECK(child.returncode() == 47);
}

TEST_CASE("communicate moves more than the pipes hold in all directions at once",
          "[subprocess][py:ProcessTestCase.test_communicate_pipe_buf]") {
    const std::string size = std::to_string(kMoreThanAPipe);
    const std::string command =
        "dd bs=1 count=47 2>/dev/null; head -c " + size + " /dev/zero | tr '\\0' x >&2; exec cat";
    sp::Popen child({"sh", "-c", command}, all_pipes());
    const std::string text(kMoreThanAPipe, 'a');
    sp::Output output = child.communicate(text);
    CHECK((output.std_out == text));  // not decomposed: nobody wants to read 4 MiB
    CHECK((output.std_err == std::string(kMoreThanAPipe, 'x')));
}

TEST_CASE("what was written before communicate comes first",
          "[subprocess][py:ProcessTestCase.test_writes_before_communicate]") {
    sp::Popen child({"cat"}, all_pipes());
    child.std_in().write("banana");
    sp::Output output = child.communicate("split");
    CHECK(output.std_out == "bananasplit");
    CHECK(output.std_err.empty());
    sp::Popen gathering({"cat"}, {.bufsize = 65536, .std_in = sp::PIPE, .std_out = sp::PIPE});
    gathering.std_in().write("banana");  // still in the writer
    CHECK(gathering.communicate("split").std_out == "bananasplit");
}

TEST_CASE("a child that does not read its input is no error of communicate",
          "[subprocess][py:ProcessTestCase.test_communicate_epipe]"
          "[py:ProcessTestCase.test_communicate_epipe_only_stdin]") {
    const std::string input(1 << 20, 'x');
    sp::Popen child({"true"}, all_pipes());
    CHECK_NOTHROW(child.communicate(input));
    CHECK(child.returncode() == 0);
    sp::Popen only_input({"true"}, {.std_in = sp::PIPE});
    only_input.wait();
    CHECK_NOTHROW(only_input.communicate(input));
}

TEST_CASE("a signal during communicate is not seen by its caller",
          "[subprocess][py:ProcessTestCase.test_communicate_eintr]") {
    CountedSignal signal(SIGUSR1);
    const sp::Args command = {"sh", "-c", "kill -USR1 $PPID; printf done; printf done >&2"};
    sp::Popen out(command, {.std_out = sp::PIPE, .std_err = sp::DEVNULL});
    CHECK(out.communicate().std_out == "done");
    sp::Popen err(command, {.std_out = sp::DEVNULL, .std_err = sp::PIPE});
    CHECK(err.communicate().std_err == "done");
    sp::Popen both(command, all_pipes());
    CHECK(both.communicate("ignored").std_out == "done");
    CHECK(signal.count() == 3);
}

TEST_CASE("communicate can be repeated after the child has closed its std_out",
          "[subprocess]"
          "[py:POSIXProcessTestCase.test_communicate_repeated_call_after_stdout_close]") {
    Gate gate;
    sp::Popen child({"sh", "-c", "exec 1>&-; read go <&3; exit 3"},
                    {.std_out = sp::PIPE, .pass_fds = gate.pass()});
    for (int i = 0; i < 3; ++i) CHECK_THROWS_AS(child.communicate({}, 20ms), sp::TimeoutExpired);
    gate.open();
    CHECK(child.communicate({}, test::kPatience).std_out.empty());
    CHECK(child.returncode() == 3);
}

// CPython makes the stream objects throw; here the child is really gone, and a gathering writer
// (bufsize) still holds bytes when communicate() closes or flushes it.
TEST_CASE("communicate swallows a broken pipe at the close of std_in",
          "[subprocess][py:POSIXProcessTestCase.test_communicate_BrokenPipeError_stdin_close]") {
    sp::Popen child = ended_child({.bufsize = 65536, .std_in = sp::PIPE});
    child.std_in().write("held back");
    CHECK_NOTHROW(child.communicate());
    CHECK(child.std_in().closed());
    CHECK(child.returncode() == 0);
}

TEST_CASE("communicate swallows a broken pipe at a write, and still closes std_in",
          "[subprocess][py:POSIXProcessTestCase.test_communicate_BrokenPipeError_stdin_write]") {
    sp::Popen child = ended_child({.std_in = sp::PIPE});
    CHECK_NOTHROW(child.communicate("stuff"));
    CHECK(child.std_in().closed());
    CHECK(child.returncode() == 0);
}

TEST_CASE("communicate swallows a broken pipe at the flush of what was written before",
          "[subprocess][py:POSIXProcessTestCase.test_communicate_BrokenPipeError_stdin_flush]") {
    sp::Popen child = ended_child({.bufsize = 65536, .std_in = sp::PIPE, .std_out = sp::PIPE});
    child.std_in().write("held back");
    CHECK_NOTHROW(child.communicate("stuff"));
    CHECK(child.std_in().closed());
}

TEST_CASE("communicate with a timeout swallows a broken pipe at the close of std_in",
          "[subprocess]"
          "[py:POSIXProcessTestCase.test_communicate_BrokenPipeError_stdin_close_with_timeout]") {
    sp::Popen child = ended_child({.bufsize = 65536, .std_in = sp::PIPE, .std_out = sp::PIPE});
    child.std_in().write("held back");
    CHECK_NOTHROW(child.communicate({}, 999s));
    CHECK(child.std_in().closed());
    CHECK(child.returncode() == 0);
}

TEST_CASE("pipesize is the capacity of each pipe",
          "[subprocess][py:ProcessTestCase.test_pipesizes]") {
    const int half = default_capacity() / 2;
    REQUIRE(half >= 512);
    sp::Options options = all_pipes();
    options.pipesize = half;
    sp::Popen child({"cat"}, options);
    CHECK(capacity(child.std_in().fd()) == half);
    CHECK(capacity(child.std_out().fd()) == half);
    CHECK(capacity(child.std_err().fd()) == half);
    CHECK(child.communicate("pear").std_out == "pear");
}

TEST_CASE("without pipesize, pipes have the system's capacity",
          "[subprocess][py:ProcessTestCase.test_pipesize_default]") {
    const int usual = default_capacity();
    sp::Popen child({"cat"}, all_pipes());
    CHECK(capacity(child.std_in().fd()) == usual);
    CHECK(capacity(child.std_out().fd()) == usual);
    CHECK(capacity(child.std_err().fd()) == usual);
}

}  // namespace py_communicate_test
