// The redirections of 0, 1 and 2: the contracts of CPython's test_subprocess.
#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>

#include "py_support.hpp"

namespace py_stdio_test {

using namespace py;

namespace {

const sp::Args kExpectPear = {"sh", "-c", "test \"$(cat)\" = pear && exit 47"};
const sp::Args kOrange = {"printf", "orange"};
const sp::Args kStrawberry = {"sh", "-c", "printf strawberry >&2"};
const sp::Args kAppleOrange = {"sh", "-c", "printf apple; printf orange >&2"};

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;
File temporary_file() { return {std::tmpfile(), &std::fclose}; }

// What a program of children/py_parent.cpp, and its own child, write.
sp::CompletedProcess run_parent(const char* command) {
    return sp::run({kParent, command}, {.capture_output = true});
}

}  // namespace

TEST_CASE("a stream that is not redirected is no pipe of Popen",
          "[subprocess][py:ProcessTestCase.test_stdin_none]"
          "[py:ProcessTestCase.test_stderr_none]") {
    sp::Popen no_input({"printf", "banana"}, {.std_out = sp::PIPE, .std_err = sp::PIPE});
    CHECK(no_input.wait() == 0);
    CHECK_FALSE(no_input.std_in());
    CHECK_THROWS_AS(no_input.std_in().write("x"), std::logic_error);
    sp::Popen no_errors({"printf", "banana"}, {.std_in = sp::PIPE, .std_out = sp::PIPE});
    CHECK(no_errors.wait() == 0);
    CHECK_FALSE(no_errors.std_err());
    CHECK_THROWS_AS(no_errors.std_err().read(), std::logic_error);
}

TEST_CASE("a child inherits the std_out of its parent",
          "[subprocess][py:ProcessTestCase.test_stdout_none]"
          "[py:ProcessTestCase.test_issue8780]") {
    sp::CompletedProcess with_pipes = run_parent("inherit_stdout");
    CHECK(with_pipes.returncode == 0);
    CHECK(with_pipes.std_out == "from the grandchild\n");
    CHECK(sp::check_output({kParent, "call_echo"}) == "Hello World!\n");
}

TEST_CASE("std_in is a pipe", "[subprocess][py:ProcessTestCase.test_stdin_pipe]") {
    sp::Popen child(kExpectPear, {.std_in = sp::PIPE});
    child.std_in().write("pear");
    child.std_in().close();
    CHECK(child.wait() == 47);
}

TEST_CASE("std_in is an open descriptor, which stays open in the parent",
          "[subprocess][py:ProcessTestCase.test_stdin_filedes]") {
    Fd file = file_with("pear");
    sp::Popen child(kExpectPear, {.std_in = file.get()});
    CHECK(child.wait() == 47);
    CHECK(is_open(file.get()));
}

TEST_CASE("std_in is a FILE", "[subprocess][py:ProcessTestCase.test_stdin_fileobj]") {
    File file = temporary_file();
    std::fputs("pear", file.get());
    std::rewind(file.get());
    sp::Popen child(kExpectPear, {.std_in = file.get()});
    CHECK(child.wait() == 47);
}

TEST_CASE("std_out is a pipe", "[subprocess][py:ProcessTestCase.test_stdout_pipe]") {
    sp::Popen child(kOrange, {.std_out = sp::PIPE});
    CHECK(child.std_out().read() == "orange");
    CHECK(child.wait() == 0);
}

TEST_CASE("std_err is a pipe", "[subprocess][py:ProcessTestCase.test_stderr_pipe]") {
    sp::Popen child(kStrawberry, {.std_err = sp::PIPE});
    CHECK(child.std_err().read() == "strawberry");
    CHECK(child.wait() == 0);
}

TEST_CASE("std_out and std_err are open descriptors, which stay open in the parent",
          "[subprocess][py:ProcessTestCase.test_stdout_filedes]"
          "[py:ProcessTestCase.test_stderr_filedes]") {
    Fd out = file_with(""), err = file_with("");
    CHECK(sp::Popen(kOrange, {.std_out = out.get()}).wait() == 0);
    CHECK(sp::Popen(kStrawberry, {.std_err = err.get()}).wait() == 0);
    CHECK(contents(out.get()) == "orange");
    CHECK(contents(err.get()) == "strawberry");
}

TEST_CASE("std_out and std_err are FILEs",
          "[subprocess][py:ProcessTestCase.test_stdout_fileobj]"
          "[py:ProcessTestCase.test_stderr_fileobj]") {
    File out = temporary_file(), err = temporary_file();
    CHECK(sp::Popen(kOrange, {.std_out = out.get()}).wait() == 0);
    CHECK(sp::Popen(kStrawberry, {.std_err = err.get()}).wait() == 0);
    CHECK(contents(fileno(out.get())) == "orange");
    CHECK(contents(fileno(err.get())) == "strawberry");
}

TEST_CASE("STDOUT for std_err means the parent's own std_out when that is not redirected",
          "[subprocess][py:ProcessTestCase.test_stderr_redirect_with_no_stdout_redirect]") {
    sp::CompletedProcess done = run_parent("stderr_to_stdout");
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "42");
    CHECK(done.std_err.empty());
}

TEST_CASE("std_out and std_err share one pipe, in the order of writing",
          "[subprocess][py:ProcessTestCase.test_stdout_stderr_pipe]") {
    sp::Popen child(kAppleOrange, {.std_out = sp::PIPE, .std_err = sp::STDOUT});
    CHECK(child.std_out().read() == "appleorange");
    CHECK_FALSE(child.std_err());
}

TEST_CASE("std_out and std_err share one file, in the order of writing",
          "[subprocess][py:ProcessTestCase.test_stdout_stderr_file]") {
    Fd file = file_with("");
    CHECK(sp::Popen(kAppleOrange, {.std_out = file.get(), .std_err = file.get()}).wait() == 0);
    CHECK(contents(file.get()) == "appleorange");
}

TEST_CASE("std_out may be descriptor 1 itself",
          "[subprocess][py:ProcessTestCase.test_stdout_filedes_of_stdout]") {
    sp::CompletedProcess done = run_parent("stdout_is_1");
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "to descriptor 1");
}

TEST_CASE("DEVNULL swallows any amount of output, and none of it reaches the parent's streams",
          "[subprocess][py:ProcessTestCase.test_stdout_devnull]"
          "[py:ProcessTestCase.test_stderr_devnull]") {
    Fd ours = file_with("");
    std::vector<int> returncodes;
    std::vector<bool> pipes;
    {
        SavedStdio stdio;
        dup2(ours.get(), 1);
        dup2(ours.get(), 2);
        sp::Popen out({"head", "-c", "10485760", "/dev/zero"}, {.std_out = sp::DEVNULL});
        returncodes.push_back(out.wait());
        sp::Popen err({"sh", "-c", "head -c 10485760 /dev/zero >&2"}, {.std_err = sp::DEVNULL});
        returncodes.push_back(err.wait());
        pipes = {bool(out.std_out()), bool(err.std_err())};
    }
    CHECK(returncodes == std::vector<int>{0, 0});
    CHECK(pipes == std::vector<bool>{false, false});
    CHECK(contents(ours.get()).empty());
}

TEST_CASE("DEVNULL as std_in is at its end at once",
          "[subprocess][py:ProcessTestCase.test_stdin_devnull]") {
    Fd ours = file_with("what the child must not see");
    int returncode = -1;
    bool pipe = true;
    {
        SavedStdio stdio;
        dup2(ours.get(), 0);
        sp::Popen child({"sh", "-c", "test -z \"$(head -c 1)\""}, {.std_in = sp::DEVNULL});
        returncode = child.wait();
        pipe = bool(child.std_in());
    }
    CHECK(returncode == 0);
    CHECK_FALSE(pipe);
}

TEST_CASE("one descriptor serves two streams of the child, and survives",
          "[subprocess][py:POSIXProcessTestCase.test_stdout_stdin_are_single_inout_fd]"
          "[py:POSIXProcessTestCase.test_stdout_stderr_are_single_inout_fd]"
          "[py:POSIXProcessTestCase.test_stderr_stdin_are_single_inout_fd]") {
    Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
    int fd = null.get();
    // The child sees an open descriptor on both streams; and the third one is not touched.
    const sp::Args same = {"sh", "-c",
                           "test /proc/$$/fd/$0 -ef /dev/null -a "
                           "/proc/$$/fd/$1 -ef /dev/null"};
    auto same_as_null = [&](const char* first, const char* second) {
        std::vector<std::string> words = same.words();
        words.insert(words.end(), {first, second});
        return sp::Args(words);
    };
    CHECK(sp::Popen(same_as_null("0", "1"), {.std_in = fd, .std_out = fd}).wait() == 0);
    CHECK(sp::Popen(same_as_null("1", "2"), {.std_out = fd, .std_err = fd}).wait() == 0);
    CHECK(sp::Popen(same_as_null("0", "2"), {.std_in = fd, .std_err = fd}).wait() == 0);
    CHECK(is_open(fd));
}

}  // namespace py_stdio_test
