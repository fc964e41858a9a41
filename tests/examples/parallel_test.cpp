#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "example.hpp"
#include "support.hpp"
#include "terminal.hpp"

namespace parallel_test {

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;
using Catch::Matchers::Matches;
using test::run_example;
namespace fs = std::filesystem;
namespace sp = sidestep::subprocess;

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

TEST_CASE("parallel's end says which jobs failed, and how", "[examples][parallel]") {
    auto done = run_example("parallel", {"sh", "-c"}, {.input = "exit 3\ntrue\nkill -9 $$\n"});
    CHECK(done.std_err ==
          "parallel: 2 of 3 jobs failed:\n"
          "  line 1: sh -c 'exit 3': exited with code 3\n"
          "  line 3: sh -c 'kill -9 $$': died of signal 9 (SIGKILL)\n");
    std::string many;
    for (int i = 0; i < 12; ++i) many += "false\n";
    auto all = run_example("parallel", {"sh", "-c"}, {.input = many});
    CHECK(all.returncode == 12);
    CHECK_THAT(all.std_err, Contains("12 of 12 jobs failed; the first of them:\n  line 1: ") &&
                                Contains("  line 10: ") && !Contains("  line 11: "));
    CHECK(run_example("parallel", {"true"}, {.input = "a\n"}).std_err.empty());
}

TEST_CASE("parallel shows on a terminal how far it is, below whole lines of its jobs",
          "[examples][parallel]") {
    test::TemporaryFolder folder;
    test::Terminal terminal(300);  // no line of the summary is longer
    // Job 1 ends when the test says so; the second fails, its line without an end; so does the
    // third when it is told.
    sp::Popen parallel(
        {test::example_path("parallel"), "-j", "1", "sh", "-c",
         "case $1 in 1|3) until [ -e $0/$1 ]; do sleep 0.01; done;; esac; printf 'out %s' $1; "
         "exit $(($1 / 2))",
         folder.path.string()},
        {.std_in = sp::PIPE,
         .std_out = terminal.fd(),
         .std_err = terminal.fd(),
         .on_destroy = sp::OnDestroy::kill});
    parallel.std_in().write("1\n2\n3\n");
    parallel.std_in().close();
    auto shows = [&](const std::vector<std::string>& above, const std::string& bar) {
        std::vector<std::string> lines = terminal.lines();
        if (lines.size() != above.size() + 1) return false;
        return std::equal(above.begin(), above.end(), lines.begin()) &&
               lines.back().find(bar) != std::string::npos;
    };
    const auto begin = std::chrono::steady_clock::now();
    // The bar comes a tenth of a second after the beginning at the earliest.
    CHECK(test::eventually([&] { return std::chrono::steady_clock::now() - begin > 300ms; }));
    CHECK(terminal.lines().empty());
    std::ofstream(folder.path / "1").put('x');
    CHECK(test::eventually([&] { return shows({"out 1", "out 2"}, "jobs 1, "); }));
    std::ofstream(folder.path / "3").put('x');
    CHECK(parallel.wait() == 2);
    const std::vector<std::string> lines = terminal.lines();
    REQUIRE(lines.size() == 7);
    CHECK(std::vector(lines.begin(), lines.begin() + 3) ==
          std::vector<std::string>{"out 1", "out 2", "out 3"});
    CHECK_THAT(lines[3], Contains("jobs 3, 2 failed, "));
    CHECK(lines[4] == "parallel: 2 of 3 jobs failed:");
    CHECK_FALSE(terminal.wrapped());
}

TEST_CASE("parallel says how it is called when it is asked", "[examples][parallel]") {
    auto help = run_example("parallel", {"--help"});
    CHECK(help.returncode == 0);
    CHECK_THAT(help.std_out, Contains("usage: parallel") && Contains("COMMAND for each line"));
    CHECK(help.std_err.empty());
    // A command's own is not ours.
    CHECK(run_example("parallel", {"echo", "--help"}, {.input = "a\n"}).std_out == "--help a\n");
}

TEST_CASE("parallel ends a job that takes too long", "[examples][parallel]") {
    auto done = run_example("parallel", {"-t", "5", "sh", "-c", "echo begun; {}"},
                            {.input = "sleep 1000 & wait\necho done\n"});
    CHECK(done.returncode == 1);
    CHECK(done.std_out == "begun\nbegun\ndone\n");
    CHECK_THAT(done.std_err, Contains("timed out after 5 seconds"));
}

TEST_CASE("a signal that ends parallel ends its jobs with all their descendants",
          "[examples][parallel]") {
    bool timeout = GENERATE(false, true);
    int signal = GENERATE(SIGINT, SIGTERM, SIGKILL);
    // A shell may have us ignore SIGINT.
    std::vector<std::string> words = {"env", "--default-signal=INT,TERM",
                                      test::example_path("parallel"), "-j", "2"};
    if (timeout) words.insert(words.end(), {"-t", "1000"});
    fs::path fifo = fs::temp_directory_path() / ("sidestep-fifo-" + std::to_string(getpid()));
    REQUIRE(mkfifo(fifo.c_str(), 0600) == 0);
    int listener = open(fifo.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    // Both jobs hold it open; with SIGKILL, which nobody can act on, only the jobs themselves do.
    std::string rest = signal == SIGKILL ? "exec sleep 1000" : "sleep 1000 & wait";
    words.insert(words.end(), {"sh", "-c", "exec 9> $0; echo ready >&9; " + rest, fifo.string()});
    sp::Popen parallel(words, {.std_in = sp::PIPE, .on_destroy = sp::OnDestroy::kill});
    auto heard = [&](std::size_t bytes) {  // so many, unless all have closed it
        std::string text(bytes, ' ');
        std::size_t size = 0;
        pollfd entry = {listener, POLLIN, 0};
        while (size < bytes && poll(&entry, 1, 60'000) == 1) {
            ssize_t n = read(listener, text.data() + size, bytes - size);
            if (n <= 0) return text.substr(0, size) + "(end)";
            size += static_cast<std::size_t>(n);
        }
        return text.substr(0, size);
    };
    parallel.std_in().write("1\n2\n3\n");
    CHECK(heard(12) == "ready\nready\n");
    fs::remove(fifo);
    parallel.send_signal(signal);
    CHECK(parallel.wait() == -signal);
    CHECK(heard(1) == "(end)");
    close(listener);
}

TEST_CASE("parallel passes its jobs the signals that it waits for itself", "[examples][parallel]") {
    CHECK(
        run_example("parallel", {"sh", "-c", "kill -{} $$; echo alive"}, {.input = "TERM\nUSR1\n"})
            .returncode == 2);
}

TEST_CASE("parallel says so when its input, output or log fails", "[examples][parallel]") {
    auto shell = [](const std::string& line) {
        return sp::run({"sh", "-c", line, test::example_path("parallel")},
                       {.input = "1\n2\n3\n", .capture_output = true, .timeout = 120s});
    };
    auto full = shell("\"$0\" echo > /dev/full");
    CHECK(full.returncode == 255);
    CHECK(full.std_err == "parallel: cannot write the output\n");
    auto unread = shell("{ \"$0\" sh -c 'seq 100000' 2>/dev/null; echo $? >&2; } | head -c 1");
    CHECK(unread.std_err == "255\n");
    auto no_log = shell("\"$0\" -l /nonexistent/log echo");
    CHECK(no_log.returncode == 255);
    CHECK(no_log.std_out.empty());
    CHECK(no_log.std_err == "parallel: cannot write the log /nonexistent/log\n");
    CHECK(shell("\"$0\" -l /dev/full echo").returncode == 255);
    auto no_input = shell("\"$0\" echo < /");
    CHECK(no_input.returncode == 255);
    CHECK(no_input.std_err == "parallel: cannot read the input\n");
}

TEST_CASE("parallel refuses options that it does not understand", "[examples][parallel]") {
    std::vector<std::string> options =
        GENERATE(values<std::vector<std::string>>({{"-t", "abc"},
                                                   {"-t", "0"},
                                                   {"-t", "-1"},
                                                   {"-t", "nan"},
                                                   {"-t", "5s"},
                                                   {"-t", ""},
                                                   {"-j", "abc"},
                                                   {"-j", "0"},
                                                   {"-j", "-1"},
                                                   {"-j", "2x"},
                                                   {"-j", "99999999999999999999"},
                                                   {"-x", "1"}}));
    auto arguments = options;
    arguments.push_back("echo");
    auto done = run_example("parallel", arguments, {.input = "1\n"});
    CHECK(done.returncode == 255);
    CHECK(done.std_out.empty());
    CHECK_THAT(done.std_err, Contains("usage: parallel"));
    if (options[0] != "-x")
        CHECK_THAT(done.std_err, Contains("parallel: " + options[0] + " " + options[1] + ": not"));
}

TEST_CASE("parallel's log has one line for a job, whatever is in it", "[examples][parallel]") {
    fs::path log = fs::temp_directory_path() / ("sidestep-log-" + std::to_string(getpid()));
    auto done = run_example("parallel", {"-l", log.string(), "printf", "%s", "a\nb", "{}"},
                            {.input = "c\td\\\n"});
    CHECK(done.std_out == "a\nbc\td\\");
    std::stringstream text;
    text << std::ifstream(log).rdbuf();
    fs::remove(log);
    CHECK_THAT(text.str(), EndsWith("\t0\t0\tprintf %s 'a\\nb' 'c\\td\\\\'\n"));
}

#ifndef TEST_SANITIZED  // they have heaps of their own
TEST_CASE("parallel runs as many jobs at a time as there is room for", "[examples][parallel]") {
    sp::ResourceLimit space = {
        .resource = sp::Resource::address_space, .soft = 1 << 30, .hard = 1 << 30};
    auto done =
        run_example("parallel", {"-j", "3000", "echo"}, {.input = "1\n2\n3\n", .limits = {space}});
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "1\n2\n3\n");
    CHECK_THAT(done.std_err, Contains("jobs at a time"));
}
#endif

}  // namespace parallel_test
