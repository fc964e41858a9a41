// communicate(), run() and pipeline(): what is heard until a deadline, from whoever holds a pipe.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <climits>
#include <string>
#include <vector>

#include <catch2/catch.hpp>
#include <sidestep/subprocess.hpp>

#include "subprocess_support.hpp"
#include "support.hpp"
#include "sys/fd.hpp"

namespace communicate_test {

namespace sp = sidestep::subprocess;
using namespace std::chrono_literals;
using namespace std::string_literals;
using Catch::Contains;
using Clock = std::chrono::steady_clock;

namespace {

// A child that ends; a process that it leaves behind, whose pid it says, keeps its std_out.
const sp::Args kLeavesSleeper = {"sh", "-c", "sleep 1000 & echo $!"};

void kill_sleeper(const std::string& output) { ::kill(std::stoi(output), SIGKILL); }

}  // namespace

TEST_CASE("who writes faster than is read holds up nobody", "[core][subprocess]") {
    constexpr long kMany = 50'000'000;
    long lines = 0;
    auto count = [&](std::string_view) {
        if (++lines > kMany) throw std::runtime_error("still reading");
    };
    sp::Options options = {.on_stdout = count, .drain_timeout = 200ms};
    // The shell ends when what it has started says that it is there.
    const char* script =
        "trap 'exit 3' USR1; setsid sh -c \"echo first; kill -USR1 $$; exec yes\" & wait";
    CHECK(sp::run({"sh", "-c", script}, options).returncode == 3);
    CHECK(lines > 0);
}

TEST_CASE("a drain_timeout counts through all calls of communicate", "[core][subprocess]") {
    sp::Popen child(kLeavesSleeper, {.std_out = sp::PIPE, .drain_timeout = 100ms});
    std::string output;
    bool in_time = test::eventually([&] {
        try {
            output = child.communicate({}, 10ms).std_out;
            return true;
        } catch (const sp::TimeoutExpired&) {
            return false;
        }
    });
    REQUIRE(in_time);
    kill_sleeper(output);
    CHECK(child.returncode() == 0);
}

TEST_CASE("a pipeline is read until its last member has ended, and so much longer",
          "[core][subprocess]") {
    auto done = sp::pipeline({{"sh", "-c", "exec >&-; sleep 0.3; echo late >&2"}, {"true"}},
                             {.std_err = sp::PIPE, .drain_timeout = 1ms});
    CHECK(done.members[0].std_err == "late\n");
    CHECK(done.members[0].returncode == 0);
}

TEST_CASE("a deadline holds between two lines; what no callback got is the exception's",
          "[core][subprocess]") {
    std::string lines, rest;
    // Until the child is in time to say something: longer, on a machine that is busy.
    for (std::chrono::milliseconds timeout = 250ms; lines.empty() && timeout < 60s; timeout *= 2) {
        auto deadline = Clock::now() + timeout;
        auto until_late = [&](std::string_view line) {
            lines += std::string(line) + '\n';
            while (Clock::now() < deadline + 10ms) continue;
        };
        try {
            sp::run({"sh", "-c", "printf '1\n2\n3'; exec sleep 1000"},
                    {.timeout = timeout, .on_stdout = until_late});
            FAIL("it ended");
        } catch (const sp::TimeoutExpired& error) {
            rest = error.output();
        }
    }
    CHECK(lines == "1\n");
    CHECK(rest == "2\n3");
}

TEST_CASE("after a timeout, what a reader had read ahead is there too", "[core][subprocess]") {
    bool text = GENERATE(false, true);
    sp::Popen child({"sh", "-c", "printf '1\n2\n'; exec sleep 1000"},
                    {.std_out = sp::PIPE, .text = text, .on_destroy = sp::OnDestroy::kill});
    CHECK(child.std_out().read_line() == "1");
    try {
        child.communicate({}, 0ms);
        FAIL("it ended");
    } catch (const sp::TimeoutExpired& error) {
        CHECK(error.output() == "2\n");
    }
}

TEST_CASE("input that cannot be encoded is not sent, and the conversation goes on",
          "[core][subprocess]") {
    sp::Popen cat({"cat"}, {.std_in = sp::PIPE, .std_out = sp::PIPE, .encoding = "ISO-8859-1"});
    CHECK_THROWS_WITH(cat.communicate("x\u20ac"), Contains("the input of \"cat\""));
    CHECK(cat.communicate("\u00e9").std_out == "\u00e9");
}

TEST_CASE("output that is no text is in the exception, as bytes", "[core][subprocess]") {
    const sp::Args command = {"printf", "good\\n\\377bad"};
    sp::Popen child(command, {.std_out = sp::PIPE, .encoding = "UTF-8"});
    try {
        child.communicate();
        FAIL("it was decoded");
    } catch (const sp::DecodeError& error) {
        CHECK(error.std_out() ==
              "good\n\xff"
              "bad");
        CHECK_THAT(error.what(), Contains("std_out of \"printf"));
    }
    CHECK(child.returncode() == 0);
    CHECK(child.communicate().std_out.empty());
    CHECK_THROWS_AS(sp::run(command, {.capture_output = true, .encoding = "UTF-8"}),
                    sp::DecodeError);
}

TEST_CASE("a child that was given up leaves no descriptor when it has ended",
          "[core][subprocess]") {
    test::Resources before = test::Resources::now();
    sp::Options options = {.die_with_parent = true, .on_destroy = sp::OnDestroy::detach};
    sp::Popen({"true"}, options).wait();
    CHECK(test::Resources::now().leaked_since(before).empty());
    options.std_in = sp::PIPE;
    sp::Popen({"cat"}, options);  // at the end of its input it ends
    CHECK(test::eventually([&] {
        sp::call({"true"});
        return test::Resources::now().leaked_since(before).empty();
    }));
}

TEST_CASE("a child that reads from a terminal stays in our group", "[core][subprocess]") {
    sidestep::Fd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    REQUIRE(master);
    REQUIRE(::grantpt(master.get()) == 0);
    REQUIRE(::unlockpt(master.get()) == 0);
    sidestep::Fd terminal(::open(::ptsname(master.get()), O_RDWR | O_NOCTTY | O_CLOEXEC));
    REQUIRE(terminal);
    sp::Popen child(
        {"sleep", "1000"},
        {.std_in = terminal.get(), .kill_tree = true, .on_destroy = sp::OnDestroy::kill});
    CHECK(::getpgid(child.pid()) == ::getpgrp());
}

TEST_CASE("a pipe that cannot be so large says so", "[core][subprocess][fault]") {
    try {
        sp::Popen({"true"}, {.std_out = sp::PIPE, .pipesize = INT_MAX});
        FAIL("it started");
    } catch (const sp::StartError& error) {
        CHECK(error.step() == sp::StartStep::pipe);
        CHECK_THAT(error.what(), Contains("pipesize = 2147483647"));
    }
}

namespace {

bool is_blocking(int fd) { return (fcntl(fd, F_GETFL) & O_NONBLOCK) == 0; }

// A second name for a pipe, as another process may have one.
sidestep::Fd shared(int fd) { return sidestep::Fd(fcntl(fd, F_DUPFD_CLOEXEC, 3)); }

}  // namespace

TEST_CASE("a communicate() that times out leaves its pipes as they were", "[core][subprocess]") {
    sp::Popen child({"sleep", "1000"}, {.std_in = sp::PIPE, .std_out = sp::PIPE});
    sidestep::Fd in = shared(child.std_in().fd()), out = shared(child.std_out().fd());
    CHECK_THROWS_AS(child.communicate(std::string(1 << 20, 'x'), 1ms), sp::TimeoutExpired);
    CHECK(is_blocking(in.get()));
    CHECK(is_blocking(out.get()));
    child.kill();
}

TEST_CASE("a second child that writes into the same pipe loses nothing, during communicate() too",
          "[core][subprocess]") {
    // The pipe is full most of the time: both writers have to wait.
    sp::Popen sink("cat | wc -c", {.std_in = sp::PIPE, .std_out = sp::PIPE, .shell = true});
    sp::Popen feeder({"seq", "100000"}, {.std_out = sink.std_in(), .std_err = sp::PIPE});
    const std::string much(1 << 20, 'x');
    std::string counted = sink.communicate(much).std_out;
    CHECK(feeder.communicate().std_err.empty());
    CHECK(feeder.wait() == 0);
    CHECK(std::stoul(counted) == much.size() + 588895);
}

TEST_CASE("a grace that ends, and a writer that is destroyed, change no shared pipe",
          "[core][subprocess]") {
    sp::Popen left(kLeavesSleeper, {.std_out = sp::PIPE, .drain_timeout = 1ms});
    sidestep::Fd out = shared(left.std_out().fd());
    kill_sleeper(left.communicate().std_out);
    CHECK(is_blocking(out.get()));

    sidestep::Fd in;
    {
        sp::Popen child({"cat"}, {.bufsize = 4096, .std_in = sp::PIPE, .std_out = sp::DEVNULL});
        in = shared(child.std_in().fd());
        child.std_in().write("held back");
        child.kill();
    }
    CHECK(is_blocking(in.get()));
}

}  // namespace communicate_test
