#include <sidestep/popen.hpp>

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <istream>
#include <ostream>
#include <sstream>
#include <thread>

#include <catch2/catch.hpp>
#include <sidestep/subprocess.hpp>

#include "subprocess_support.hpp"
#include "support.hpp"
#include "sys/sys.hpp"

namespace popen_test {

namespace sp = sidestep::subprocess;
using namespace std::chrono_literals;
using Catch::Matchers::Contains;

namespace {

// A child that says something and goes on until its std_in ends.
sp::Popen talker(sp::Options options = {}) {
    options.std_out = sp::DEVNULL;
    options.std_in = sp::PIPE;
    return sp::Popen({"sh", "-c", "echo ready; cat"}, options);
}

const std::string kMuch(3 << 20, 'x');  // more than any pipe takes

}  // namespace

TEST_CASE("poll and returncode say nothing before the end, and the same after it",
          "[core][subprocess]") {
    sp::Popen cat({"cat"}, {.std_in = sp::PIPE});
    CHECK_FALSE(cat.poll());
    CHECK_FALSE(cat.returncode());
    CHECK(cat.exit_status().running());
    CHECK_THAT(cat.describe(), Contains("Popen(cat)") && Contains("is running"));
    cat.std_in().close();
    CHECK(cat.wait() == 0);
    CHECK(cat.poll() == 0);
    CHECK(cat.returncode() == 0);
    CHECK_THAT(cat.describe(), Contains("exited with code 0"));
}

TEST_CASE("a wait that times out leaves the child running", "[core][subprocess]") {
    sp::Popen cat({"cat"}, {.std_in = sp::PIPE});
    CHECK_THROWS_AS(cat.wait(1ms), sp::TimeoutExpired);
    CHECK_THROWS_AS(cat.wait(-1s), sp::TimeoutExpired);
    CHECK_FALSE(cat.wait_for(0s));
    CHECK_FALSE(cat.poll());
    cat.std_in().close();
    CHECK(cat.wait(std::chrono::nanoseconds::max()) == 0);
}

TEST_CASE("threads that wait for one child all get its status", "[core][subprocess]") {
    sp::Popen cat({"sh", "-c", "cat; exit 5"}, {.std_in = sp::PIPE});
    std::atomic<int> right{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
        threads.emplace_back([&, i] { right += (i % 2 ? cat.wait() : cat.wait(60s)) == 5; });
    cat.std_in().close();
    for (std::thread& thread : threads) thread.join();
    CHECK(right == 4);
}

TEST_CASE("signals reach a child, and do nothing once it is gone", "[core][subprocess]") {
    sp::Popen terminated({"sleep", "1000"});
    terminated.terminate();
    CHECK(terminated.wait() == -SIGTERM);
    CHECK(terminated.exit_status().signal() == SIGTERM);
    sp::Popen killed({"sleep", "1000"});
    killed.kill();
    CHECK(killed.wait() == -SIGKILL);
    CHECK_NOTHROW(killed.kill());
    CHECK_NOTHROW(killed.terminate());
    CHECK_NOTHROW(killed.kill_tree());
    sp::Popen unseen({"true"});  // dead, but nobody has looked
    REQUIRE(test::eventually([&] { return !test::is_running(unseen.pid()); }));
    CHECK_NOTHROW(unseen.send_signal(SIGUSR1));
    CHECK(unseen.wait() == 0);
}

TEST_CASE("communicate carries more than the pipes hold, both ways", "[core][subprocess]") {
    sp::Popen tee({"tee", "/dev/stderr"},
                  {.std_in = sp::PIPE, .std_out = sp::PIPE, .std_err = sp::PIPE});
    sp::Output output = tee.communicate(kMuch);
    CHECK(output.std_out == kMuch);
    CHECK(output.std_err == kMuch);
    CHECK(tee.returncode() == 0);
    CHECK(tee.std_out().closed());
}

TEST_CASE("after a timeout, communicate resumes: no output is lost, all input is sent",
          "[core][subprocess]") {
    auto [gate_read, gate_write] = sidestep::sys::make_pipe();
    sp::Popen stuck({"sh", "-c", "echo begun; read line <&9; exec cat"},
                    {.std_in = sp::PIPE, .std_out = sp::PIPE, .pass_fds = {{gate_read.get(), 9}}});
    std::string heard;
    std::optional<std::string> input = kMuch;
    REQUIRE(test::eventually([&] {
        try {
            stuck.communicate(std::exchange(input, {}), 5ms);
        } catch (const sp::TimeoutExpired& e) {
            heard = e.output();
        }
        return heard == "begun\n";
    }));
    CHECK_THROWS_AS(stuck.communicate("more", 1ms), std::logic_error);
    REQUIRE(write(gate_write.get(), "go\n", 3) == 3);
    CHECK(stuck.communicate().std_out == "begun\n" + kMuch);
    CHECK(stuck.returncode() == 0);
}

TEST_CASE("communicate ignores a child that does not read its input", "[core][subprocess]") {
    sp::Popen child({"true"}, {.std_in = sp::PIPE, .std_out = sp::PIPE});
    CHECK(child.communicate(kMuch).std_out.empty());
    CHECK(child.returncode() == 0);
}

TEST_CASE("communicate refuses input without a pipe", "[core][subprocess]") {
    sp::Popen child({"true"});
    CHECK_THROWS_AS(child.communicate("x"), std::logic_error);
    CHECK(child.wait() == 0);
}

TEST_CASE("what was read and written before belongs to the conversation", "[core][subprocess]") {
    sp::Popen cat({"cat"}, {.bufsize = 100, .std_in = sp::PIPE, .std_out = sp::PIPE});
    cat.std_in().write("one\ntwo\n");
    cat.std_in().flush();
    CHECK(cat.std_out().read_line() == "one");
    cat.std_in().write("three\n");  // still gathered
    CHECK(cat.communicate("four\n").std_out == "two\nthree\nfour\n");
}

TEST_CASE("a drain timeout ends the reading when a grandchild keeps the pipe",
          "[core][subprocess]") {
    sp::Popen child({"sh", "-c", "echo out; sleep 1000 & echo $! >&2"},
                    {.std_out = sp::PIPE, .std_err = sp::PIPE, .drain_timeout = 10ms});
    sp::Output output = child.communicate();
    CHECK(output.std_out == "out\n");
    int grandchild = std::stoi(output.std_err);
    CHECK(test::is_running(grandchild));
    kill(grandchild, SIGKILL);
}

TEST_CASE("readers read all, some, lines, and through a stream", "[core][subprocess]") {
    auto child = [] { return sp::Popen({"printf", "a\\nbb\\n\\nccc"}, {.std_out = sp::PIPE}); };
    CHECK(child().std_out().read() == "a\nbb\n\nccc");
    sp::Popen pieces = child();
    CHECK(pieces.std_out().read(3) == "a\nb");
    CHECK(pieces.std_out().read_line() == "b");
    CHECK(pieces.std_out().read_line() == "");
    CHECK(pieces.std_out().read(100) == "ccc");
    CHECK(pieces.std_out().read_line() == std::nullopt);
    CHECK(pieces.std_out().read_some().empty());
    std::vector<std::string> lines;
    sp::Popen by_line = child();
    for (std::string_view line : by_line.std_out().lines()) lines.emplace_back(line);
    CHECK(lines == std::vector<std::string>{"a", "bb", "", "ccc"});
    sp::Popen streamed = child();
    std::string word, words;
    while (streamed.std_out().stream() >> word) words += word + ",";
    CHECK(words == "a,bb,ccc,");
}

TEST_CASE("a pipe that is not there says what to do", "[core][subprocess]") {
    sp::Popen child({"true"});
    CHECK_FALSE(child.std_in());
    CHECK_FALSE(child.std_out());
    CHECK_THROWS_WITH(child.std_in().write("x"), Contains(".std_in = PIPE"));
    CHECK_THROWS_WITH(child.std_out().read(), Contains(".std_out = PIPE"));
    CHECK_NOTHROW(child.std_in().close());
}

TEST_CASE("writers write at once, gather, or wait for the line's end", "[core][subprocess]") {
    sp::Popen direct({"cat"}, {.std_in = sp::PIPE, .std_out = sp::PIPE});
    direct.std_in().write("x");
    CHECK(direct.std_out().read_some() == "x");

    sp::Popen lines({"cat"}, {.bufsize = 1, .std_in = sp::PIPE, .std_out = sp::PIPE, .text = true});
    lines.std_in().write("no end");
    pollfd entry = {lines.std_out().fd(), POLLIN, 0};
    CHECK(poll(&entry, 1, 0) == 0);
    lines.std_in().write(" yet\n");
    CHECK(lines.std_out().read_line() == "no end yet");

    sp::Popen streamed({"cat"}, {.std_in = sp::PIPE, .std_out = sp::PIPE});
    streamed.std_in().stream() << 1 << ' ' << 2.5 << std::flush;
    CHECK(streamed.std_out().read(5) == "1 2.5");
    streamed.std_in().stream() << kMuch.substr(0, 5000) << '\n';
    streamed.std_in().close();
    CHECK(streamed.std_out().read().size() == 5001);
}

TEST_CASE("writing to a child that is gone is EPIPE, never SIGPIPE", "[core][subprocess]") {
    sp::Popen child({"true"}, {.std_in = sp::PIPE});
    child.wait();
    try {
        child.std_in().write("x");
        FAIL("no exception");
    } catch (const std::system_error& e) {
        CHECK(e.code().value() == EPIPE);
    }
    sigset_t pending;
    sigpending(&pending);
    CHECK(sigismember(&pending, SIGPIPE) == 0);
}

TEST_CASE("text mode makes one newline of all, and UTF-8 of all encodings", "[core][subprocess]") {
    auto out = [](const char* script, sp::Options options) {
        options.std_out = sp::PIPE;
        return sp::Popen({"printf", script}, options).communicate().std_out;
    };
    CHECK(out("a\\r\\nb\\rc\\n", {.text = true}) == "a\nb\nc\n");
    CHECK(out("a\\r\\nb\\rc\\n", {.universal_newlines = true}) == "a\nb\nc\n");
    CHECK(out("a\\r\\nb", {}) == "a\r\nb");
    CHECK(out("\\344\\r\\n", {.encoding = "ISO-8859-1"}) == "\u00e4\n");
    CHECK(out("\\377\\376a\\000\\r\\000\\n\\000b\\000", {.encoding = "UTF-16"}) == "a\nb");
    CHECK(out("[\\200\\200]", {.errors = sp::CodecErrors::ignore}) == "[]");
    CHECK(out("[\\200\\200]", {.errors = sp::CodecErrors::replace}) == "[\ufffd\ufffd]");
    CHECK(out("[\\200]", {.errors = sp::CodecErrors::backslashreplace}) == "[\\x80]");
    CHECK(out("[\\200]", {.errors = sp::CodecErrors::surrogateescape}) == "[\x80]");
    CHECK(out("\\303", {.errors = sp::CodecErrors::replace}) == "\ufffd");  // cut off at the end
    CHECK_THROWS_AS(out("[\\200]", {.encoding = "utf-8"}), sp::DecodeError);
    CHECK_THROWS_AS(out("", {.universal_newlines = true, .text = false}), std::invalid_argument);
    CHECK_THROWS_WITH(out("", {.encoding = "klingon"}), Contains("klingon"));
}

TEST_CASE("text mode works piece by piece, and encodes what is written", "[core][subprocess]") {
    sp::Popen cat({"cat"}, {.std_in = sp::PIPE, .std_out = sp::PIPE, .encoding = "ISO-8859-1"});
    cat.std_in().write("\u00e4\r");
    CHECK(cat.std_out().read_line() == "\u00e4");
    cat.std_in().write("\nb\r\n");
    CHECK(cat.std_out().read_line() == "b");
    CHECK(cat.communicate("\u00fc").std_out == "\u00fc");
    sp::Popen length({"wc", "-c"},
                     {.std_in = sp::PIPE, .std_out = sp::PIPE, .encoding = "ISO-8859-1"});
    CHECK(length.communicate("\u00e4\u00f6").std_out == "2\n");
    sp::Popen strict({"cat"}, {.std_in = sp::PIPE, .encoding = "ASCII"});
    CHECK_THROWS_AS(strict.communicate("\u00e4"), sp::DecodeError);
}

TEST_CASE("the destructor waits, kills, stops or detaches, as told", "[core][subprocess]") {
    int pid = 0;
    SECTION("wait: after the pipes are closed") {
        pid = talker().pid();
        CHECK(kill(pid, 0) == -1);
    }
    SECTION("kill") {
        pid = sp::Popen({"sleep", "1000"}, {.on_destroy = sp::OnDestroy::kill}).pid();
        CHECK(kill(pid, 0) == -1);
    }
    SECTION("stop: the ladder") {
        sp::Options options = {.on_destroy = sp::OnDestroy::stop,
                               .stop_ladder = {{SIGTERM, 10ms}, {SIGKILL}}};
        pid = sp::Popen({"sh", "-c", "trap '' TERM; exec sleep 1000"}, options).pid();
        CHECK(kill(pid, 0) == -1);
    }
    SECTION("detach: reaped when another one comes") {
        {
            sp::Popen child({"sleep", "1000"}, {.on_destroy = sp::OnDestroy::detach});
            pid = child.pid();
        }
        CHECK(test::is_running(pid));
        kill(pid, SIGKILL);
        CHECK(test::eventually([&] {
            sp::Popen({"true"}).wait();
            return kill(pid, 0) == -1;
        }));
    }
    SECTION("assignment ends the former child") {
        sp::Popen child({"sleep", "1000"}, {.on_destroy = sp::OnDestroy::kill});
        pid = child.pid();
        child = sp::Popen({"true"});
        CHECK(kill(pid, 0) == -1);
    }
}

TEST_CASE("a stop ladder goes as far as it must", "[core][subprocess]") {
    sp::Popen polite({"sleep", "1000"});
    CHECK(polite.stop({{0, 1ms}, {SIGTERM, 60s}, {SIGKILL}}).signal() == SIGTERM);
    sp::Popen stubborn({"sh", "-c", "trap '' TERM; echo ready; exec sleep 1000"},
                       {.std_out = sp::PIPE, .kill_tree = true});
    CHECK(stubborn.std_out().read_line() == "ready");
    CHECK(stubborn.stop({{SIGTERM, 10ms}, {SIGKILL}}).signal() == SIGKILL);
    sp::Popen left({"cat"}, {.std_in = sp::PIPE});
    CHECK(left.stop({{0, 1ms}}).running());
}

TEST_CASE("kill_tree reaches grandchildren, with a group of their own or without",
          "[core][subprocess]") {
    sp::Options options = GENERATE(sp::Options{}, sp::Options{.kill_tree = true},
                                   sp::Options{.start_new_session = true});
    options.std_out = sp::PIPE;
    // A grandchild, and a great-grandchild in another process group.
    sp::Popen child({"bash", "-c",
                     "sleep 1000 & echo $!; set -m; (sleep 1000 & echo $!; wait) & "
                     "wait"},
                    options);
    int first = std::stoi(*child.std_out().read_line());
    int second = std::stoi(*child.std_out().read_line());
    CHECK(test::is_running(first));
    CHECK(test::is_running(second));
    child.kill_tree();
    CHECK(child.wait() == -SIGKILL);
    CHECK(test::eventually([&] { return !test::is_running(first) && !test::is_running(second); }));
}

TEST_CASE("a finished child tells what it used", "[core][subprocess]") {
    sp::Popen child({"sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"});
    CHECK(child.resource_usage().max_resident_bytes == 0);
    child.wait();
    sp::ResourceUsage usage = child.resource_usage();
    CHECK(usage.user_time + usage.system_time > 0us);
    CHECK(usage.max_resident_bytes > 100'000);
    CHECK(usage.minor_faults > 0);
}

TEST_CASE("a Popen that was moved from says so", "[core][subprocess]") {
    sp::Popen child({"true"});
    sp::Popen other = std::move(child);
    CHECK_THROWS_WITH(child.wait(), Contains("moved"));
    CHECK(other.wait() == 0);
    std::ostringstream text;
    text << other;
    CHECK(text.str() == other.describe());
}

TEST_CASE("another child's pipe can be redirected to, unless bytes would be lost",
          "[core][subprocess]") {
    sp::Popen source({"printf", "b\\na\\n"}, {.std_out = sp::PIPE});
    sp::Popen sort({"sort"}, {.std_in = source.std_out(), .std_out = sp::PIPE});
    source.std_out().close();
    CHECK(sort.communicate().std_out == "a\nb\n");
    sp::Popen sink({"cat"}, {.std_in = sp::PIPE, .std_out = sp::PIPE});
    sp::Popen({"echo", "hi"}, {.std_out = sink.std_in()}).wait();
    CHECK(sink.communicate("end\n").std_out == "hi\nend\n");
    sp::Popen ahead({"printf", "a\\nb\\n"}, {.std_out = sp::PIPE});
    ahead.std_out().read_line();
    CHECK_THROWS_AS(sp::InputRedirect(ahead.std_out()), std::logic_error);
}

}  // namespace popen_test
