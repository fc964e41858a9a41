// run(): the contracts of CPython's test_subprocess (RunFuncTestCase).
#include <signal.h>

#include <catch2/catch.hpp>
#include <type_traits>

#include "py_support.hpp"

namespace py_run_test {

using namespace py;

namespace {

const sp::Args kExit47 = {"sh", "-c", "exit 47"};
const sp::Args kShout = {"tr", "a-z", "A-Z"};

}  // namespace

TEST_CASE("run returns the exit code, and check_returncode throws it",
          "[subprocess][py:RunFuncTestCase.test_returncode]") {
    sp::CompletedProcess done = sp::run(kExit47);
    CHECK(done.returncode == 47);
    CHECK_THROWS_AS(done.check_returncode(), sp::CalledProcessError);
}

TEST_CASE("run with check throws the exit code of a failure",
          "[subprocess][py:RunFuncTestCase.test_check]") {
    auto error = thrown<sp::CalledProcessError>([] { sp::run(kExit47, {.check = true}); });
    REQUIRE(error);
    CHECK(error->returncode() == 47);
}

TEST_CASE("run with check is silent about success",
          "[subprocess][py:RunFuncTestCase.test_check_zero]") {
    sp::CompletedProcess done = sp::run({"true"}, {.check = true});
    CHECK(done.returncode == 0);
    CHECK_NOTHROW(done.check_returncode());
}

TEST_CASE("run kills a child that outlives the timeout, however short that is",
          "[subprocess][py:RunFuncTestCase.test_timeout]") {
    const sp::Args endless = {"sh", "-c", "while :; do :; done"};
    CHECK_THROWS_AS(sp::run(endless, {.timeout = 100us}), sp::TimeoutExpired);
}

TEST_CASE("run collects std_out from a pipe",
          "[subprocess][py:RunFuncTestCase.test_capture_stdout]") {
    CHECK(sp::run({"printf", "BDFL"}, {.std_out = sp::PIPE}).std_out == "BDFL");
}

TEST_CASE("run collects std_err from a pipe",
          "[subprocess][py:RunFuncTestCase.test_capture_stderr]") {
    CHECK(sp::run({"sh", "-c", "printf BDFL >&2"}, {.std_err = sp::PIPE}).std_err == "BDFL");
}

TEST_CASE("capture_output collects both streams, apart",
          "[subprocess][py:RunFuncTestCase.test_capture_output]") {
    sp::CompletedProcess done =
        sp::run({"sh", "-c", "printf BDFL; printf FLUFL >&2"}, {.capture_output = true});
    CHECK(done.std_out == "BDFL");
    CHECK(done.std_err == "FLUFL");
}

TEST_CASE("run takes std_in from a file",
          "[subprocess][py:RunFuncTestCase.test_check_output_stdin_arg]") {
    Fd file = file_with("pear");
    CHECK(sp::run(kShout, {.std_in = file.get(), .std_out = sp::PIPE}).std_out == "PEAR");
}

TEST_CASE("run sends input", "[subprocess][py:RunFuncTestCase.test_check_output_input_arg]") {
    CHECK(sp::run(kShout, {.input = "pear", .std_out = sp::PIPE}).std_out == "PEAR");
}

TEST_CASE("run refuses std_in together with input, and names both",
          "[subprocess][py:RunFuncTestCase.test_check_output_stdin_with_input_arg]") {
    Fd file = file_with("pear");
    auto message = message_of<std::invalid_argument>(
        [&] { sp::run(kShout, {.input = "hare", .std_in = file.get()}); });
    CHECK(contains_all(message, {"std_in", "input"}));
}

TEST_CASE("run refuses std_out together with capture_output, and names both",
          "[subprocess][py:RunFuncTestCase.test_stdout_with_capture_output_arg]") {
    Fd file = file_with("");
    auto message = message_of<std::invalid_argument>([&] {
        sp::run({"echo", "not run"}, {.capture_output = true, .std_out = file.get()});
    });
    CHECK(contains_all(message, {"std_out", "capture_output"}));
    CHECK(contents(file.get()).empty());
}

TEST_CASE("run refuses std_err together with capture_output, and names both",
          "[subprocess][py:RunFuncTestCase.test_stderr_with_capture_output_arg]") {
    Fd file = file_with("");
    auto message = message_of<std::invalid_argument>([&] {
        sp::run({"echo", "not run"}, {.capture_output = true, .std_err = file.get()});
    });
    CHECK(contains_all(message, {"std_err", "capture_output"}));
    CHECK(contents(file.get()).empty());
}

TEST_CASE("STDOUT is for std_err only: anything else does not compile",
          "[subprocess][py:RunFuncTestCase.test_stdout_stdout]") {
    CHECK_FALSE(std::is_constructible_v<sp::OutputRedirect, sp::StdoutTag>);
    CHECK_FALSE(std::is_constructible_v<sp::InputRedirect, sp::StdoutTag>);
    CHECK(std::is_constructible_v<sp::ErrorRedirect, sp::StdoutTag>);
    CHECK_FALSE(std::is_assignable_v<decltype(sp::Options::std_out)&, sp::StdoutTag>);
}

TEST_CASE("run hands every option to the child",
          "[subprocess][py:RunFuncTestCase.test_run_kwargs]") {
    auto environment = sp::Environment::extend({{"FRUIT", "banana"}});
    const sp::Args look = {"sh", "-c", "test $FRUIT = banana && exit 33; exit 31"};
    CHECK(sp::run(look, {.env = environment}).returncode == 33);
}

TEST_CASE("a path alone is a program to run, never a shell line",
          "[subprocess][py:RunFuncTestCase.test_run_with_pathlike_path]") {
    fs::path program = "/bin/ls";
    CHECK(sp::run(program, {.std_out = sp::DEVNULL}).returncode == 0);
    CHECK_THROWS_AS(sp::run(program, {.std_out = sp::DEVNULL, .shell = true}),
                    std::invalid_argument);
}

TEST_CASE("a path may be a word of the command",
          "[subprocess][py:RunFuncTestCase.test_run_with_pathlike_path_and_arguments]") {
    fs::path program = kChild;
    CHECK(sp::run({program, "exit", "57"}).returncode == 57);
}

TEST_CASE("a program starts with an empty environment",
          "[subprocess][py:RunFuncTestCase.test_run_with_an_empty_env]") {
    CHECK(sp::run({kChild, "exit", "7"}, {.env = sp::Environment()}).returncode == 7);
}

TEST_CASE("a timeout is not held up by a grandchild that keeps the pipe open",
          "[subprocess][py:RunFuncTestCase.test_run_with_shell_timeout_and_capture_output]") {
    const char* command = "sleep 1000 & echo $!; wait";
    std::string output;
    auto before = std::chrono::steady_clock::now();
    // The grandchild's pid may not have been written yet when a short timeout ends.
    for (auto timeout = 100ms; output.empty() && timeout < test::kPatience; timeout *= 4) {
        auto expired = thrown<sp::TimeoutExpired>(
            [&] { sp::run(command, {.capture_output = true, .timeout = timeout, .shell = true}); });
        REQUIRE(expired);
        output = expired->output();
    }
    CHECK(std::chrono::steady_clock::now() - before < 500s);  // not the 1000 s of the grandchild
    REQUIRE_FALSE(output.empty());
    int grandchild = std::stoi(output);
    CHECK(eventually([&] { return is_dead(grandchild); }));
}

}  // namespace py_run_test
