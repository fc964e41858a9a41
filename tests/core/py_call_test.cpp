// call, check_call, check_output, getoutput: the contracts of CPython's test_subprocess.
#include <unistd.h>

#include <catch2/catch.hpp>

#include "py_support.hpp"

namespace py_call_test {

using namespace py;

namespace {

const sp::Args kShout = {"tr", "a-z", "A-Z"};

// A program that writes and then never ends is cut off by a timeout; how long it takes until it
// has written depends on the machine, so the timeout grows until it has.
template <class Start>
std::string output_at_timeout(Start&& start) {
    for (auto timeout = 200ms; timeout < test::kPatience; timeout *= 4) {
        auto expired = thrown<sp::TimeoutExpired>([&] { start(timeout); });
        if (!expired) return "(no timeout)";
        if (expired->output() != expired->std_out()) return "(two outputs)";
        if (!expired->output().empty()) return expired->output();
    }
    return "(no output)";
}

const sp::Args kWriteAndStay = {"sh", "-c", "printf BDFL; exec sleep 1000"};

}  // namespace

TEST_CASE("call returns the child's exit code", "[subprocess][py:ProcessTestCase.test_call_seq]") {
    CHECK(sp::call({"sh", "-c", "exit 47"}) == 47);
}

TEST_CASE("call kills a child that outlives the timeout, and says so",
          "[subprocess][py:ProcessTestCase.test_call_timeout]") {
    CHECK_THROWS_AS(sp::call({"sh", "-c", "while :; do :; done"}, {.timeout = 100ms}),
                    sp::TimeoutExpired);
}

TEST_CASE("call hands every option to the child",
          "[subprocess][py:ProcessTestCase.test_call_kwargs]") {
    auto environment = sp::Environment::extend({{"FRUIT", "banana"}});
    CHECK(sp::call({"sh", "-c", "test $FRUIT = banana && exit 33"}, {.env = environment}) == 33);
}

TEST_CASE("check_call is silent about success",
          "[subprocess][py:ProcessTestCase.test_check_call_zero]") {
    CHECK_NOTHROW(sp::check_call({"true"}));
}

TEST_CASE("check_call throws the exit code of a failure",
          "[subprocess][py:ProcessTestCase.test_check_call_nonzero]") {
    auto error = thrown<sp::CalledProcessError>([] { sp::check_call({"sh", "-c", "exit 47"}); });
    REQUIRE(error);
    CHECK(error->returncode() == 47);
    CHECK(error->cmd() == sp::Args{"sh", "-c", "exit 47"});
}

TEST_CASE("check_output returns what the child writes",
          "[subprocess][py:ProcessTestCase.test_check_output]") {
    CHECK(sp::check_output({"echo", "BDFL"}) == "BDFL\n");
}

TEST_CASE("check_output refuses a redirected std_out, and names it",
          "[subprocess][py:ProcessTestCase.test_check_output_stdout_arg]") {
    auto message = message_of<std::invalid_argument>([] {
        sp::check_output({"echo", "not run"}, {.std_out = sp::DEVNULL});
    });
    CHECK(contains(message, "std_out"));
}

TEST_CASE("check_output throws the exit code of a failure",
          "[subprocess][py:ProcessTestCase.test_check_output_nonzero]") {
    auto error = thrown<sp::CalledProcessError>([] {
        sp::check_output({"sh", "-c", "echo so far; exit 5"});
    });
    REQUIRE(error);
    CHECK(error->returncode() == 5);
    CHECK(error->output() == "so far\n");
}

TEST_CASE("check_output collects std_err too when that is STDOUT",
          "[subprocess][py:ProcessTestCase.test_check_output_stderr]") {
    CHECK(sp::check_output({"sh", "-c", "printf BDFL >&2"}, {.std_err = sp::STDOUT}) == "BDFL");
}

TEST_CASE("check_output takes std_in from a file",
          "[subprocess][py:ProcessTestCase.test_check_output_stdin_arg]") {
    Fd file = file_with("pear");
    CHECK(sp::check_output(kShout, {.std_in = file.get()}) == "PEAR");
}

TEST_CASE("check_output sends input",
          "[subprocess][py:ProcessTestCase.test_check_output_input_arg]") {
    CHECK(sp::check_output(kShout, {.input = "pear"}) == "PEAR");
}

TEST_CASE("check_output refuses std_in together with input, and names both",
          "[subprocess][py:ProcessTestCase.test_check_output_stdin_with_input_arg]") {
    Fd file = file_with("pear");
    auto message = message_of<std::invalid_argument>(
        [&] { sp::check_output(kShout, {.input = "hare", .std_in = file.get()}); });
    CHECK(contains_all(message, {"std_in", "input"}));
}

TEST_CASE("an empty input is an empty std_in, in binary and in text mode",
          "[subprocess][py:ProcessTestCase.test_check_output_input_none]"
          "[py:ProcessTestCase.test_check_output_input_none_text]"
          "[py:ProcessTestCase.test_check_output_input_none_universal_newlines]") {
    const sp::Args tell = {"sh", "-c", "if [ -n \"$(cat)\" ]; then echo XX; else echo empty; fi"};
    std::vector<std::string> outputs;
    {
        SavedStdio stdio;  // an inherited std_in would not be empty
        Fd full = file_with("something");
        dup2(full.get(), 0);
        outputs.push_back(sp::check_output(tell, {.input = ""}));
        outputs.push_back(sp::check_output(tell, {.input = "", .text = true}));
        outputs.push_back(sp::check_output(tell, {.input = "", .universal_newlines = true}));
        outputs.push_back(sp::check_output(tell));
    }
    CHECK(outputs == std::vector<std::string>{"empty\n", "empty\n", "empty\n", "XX\n"});
}

TEST_CASE("an empty input goes with an encoding and an error handler",
          "[subprocess][py:ProcessTestCase.test_check_output_input_none_encoding_errors]") {
    CHECK(sp::check_output({"echo", "foo"},
                           {.input = "", .encoding = "UTF-8", .errors = sp::CodecErrors::ignore}) ==
          "foo\n");
}

TEST_CASE("check_output's timeout carries what was written so far",
          "[subprocess][py:ProcessTestCase.test_check_output_timeout]") {
    CHECK(output_at_timeout([](std::chrono::nanoseconds timeout) {
              sp::check_output(kWriteAndStay, {.timeout = timeout});
          }) == "BDFL");
}

TEST_CASE("run's timeout carries what was written so far",
          "[subprocess][py:RunFuncTestCase.test_check_output_timeout]") {
    CHECK(output_at_timeout([](std::chrono::nanoseconds timeout) {
              sp::run(kWriteAndStay, {.timeout = timeout, .std_out = sp::PIPE});
          }) == "BDFL");
}

TEST_CASE("getoutput and getstatusoutput run a shell line and strip its last newline",
          "[subprocess][py:MiscTests.test_getoutput]") {
    CHECK(sp::getoutput("echo xyzzy") == "xyzzy");
    sp::StatusOutput fine = sp::getstatusoutput("echo xyzzy; echo");
    CHECK(fine.status == 0);
    CHECK(fine.output == "xyzzy\n");
    TemporaryFolder folder;  // empty: the file in it does not exist for sure
    sp::StatusOutput failed = sp::getstatusoutput("cat " + (folder.path() / "foo").native());
    CHECK(failed.status != 0);
    CHECK(contains(failed.output, "foo"));  // std_err is merged into it
}

}  // namespace py_call_test
