#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include <catch2/catch.hpp>

#include "example.hpp"

using Catch::Matchers::Contains;
using Catch::Matchers::Matches;
using test::run_example;
namespace fs = std::filesystem;

TEST_CASE("parallel keeps the order of the lines, whichever job ends first",
          "[examples][parallel]") {
    // The first job waits until the third has ended.
    fs::path gate = fs::temp_directory_path() / ("sidestep-gate-" + std::to_string(getpid()));
    std::string script =
        "case $1 in 1) until [ -e $0 ]; do sleep 0.01; done;; 3) touch $0;; esac; "
        "echo out $1; echo err $1 >&2";
    auto done = run_example("parallel", {"-j", "2", "sh", "-c", script, gate.string()},
                            {.input = "1\n2\n3\n"});
    fs::remove(gate);
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "out 1\nout 2\nout 3\n");
    CHECK(done.std_err == "err 1\nerr 2\nerr 3\n");
}

TEST_CASE("parallel passes each line as one word, wherever {} stands", "[examples][parallel]") {
    auto words = run_example("parallel", {"printf", "<%s>\n", "a{}b{}", "{}"},
                             {.input = "x y\n\"$HOME\"\n"});
    CHECK(words.std_out == "<ax ybx y>\n<x y>\n<a\"$HOME\"b\"$HOME\">\n<\"$HOME\">\n");
    auto last = run_example("parallel", {"echo", "-n"}, {.input = "a\nb"});
    CHECK(last.std_out == "ab");
    CHECK(run_example("parallel", {"echo"}, {.input = ""}).std_out.empty());
}

TEST_CASE("parallel's exit status counts the jobs that failed, and its log says which",
          "[examples][parallel]") {
    fs::path log = fs::temp_directory_path() / ("sidestep-log-" + std::to_string(getpid()));
    auto done = run_example("parallel", {"-l", log.string(), "sh", "-c", "{}"},
                            {.input = "exit 3\ntrue\nkill -9 $$\n"});
    CHECK(done.returncode == 2);
    std::stringstream text;
    text << std::ifstream(log).rdbuf();
    fs::remove(log);
    CHECK_THAT(text.str(), Matches("job\tstart\tseconds\texit\tsignal\tcommand\n"
                                   "1\t[0-9.]+\t[0-9.]+\t3\t0\tsh -c 'exit 3'\n"
                                   "2\t[0-9.]+\t[0-9.]+\t0\t0\tsh -c true\n"
                                   "3\t[0-9.]+\t[0-9.]+\t0\t9\tsh -c 'kill -9 \\$\\$'\n"));
    CHECK(run_example("parallel", {"/no/such"}, {.input = "a\nb\n"}).returncode == 2);
    CHECK(run_example("parallel", {}, {.input = ""}).returncode == 255);
}

TEST_CASE("parallel ends a job that takes too long", "[examples][parallel]") {
    auto done = run_example("parallel", {"-t", "5", "sh", "-c", "echo begun; {}"},
                            {.input = "sleep 1000 & wait\necho done\n"});
    CHECK(done.returncode == 1);
    CHECK(done.std_out == "begun\nbegun\ndone\n");
    CHECK_THAT(done.std_err, Contains("timed out after 5 seconds"));
}
