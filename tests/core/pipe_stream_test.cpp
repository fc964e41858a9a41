// PipeReader and PipeWriter with their streams: one order, whoever reads or writes.
#include <sidestep/popen.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <functional>
#include <istream>
#include <optional>
#include <ostream>
#include <thread>

#include <catch2/catch.hpp>

#include "subprocess_support.hpp"
#include "support.hpp"

namespace pipe_stream_test {

namespace sp = sidestep::subprocess;
using namespace std::chrono_literals;

namespace {

sp::Popen cat(sp::Options options = {}) {
    options.std_in = sp::PIPE;
    options.std_out = sp::PIPE;
    return sp::Popen({"cat"}, options);
}

sp::Popen says(const char* text, sp::Options options = {}) {
    options.std_out = sp::PIPE;
    return sp::Popen({"printf", text}, options);
}

// A child that has ended, and left us the writing end.
sp::Popen dead(sp::Options options = {}) {
    options.std_in = sp::PIPE;
    sp::Popen child({"true"}, options);
    child.wait();
    return child;
}

// `size` characters. Without a buffer, read() returns what there is.
std::string read_whole(sp::PipeReader& reader, std::size_t size) {
    std::string text;
    while (text.size() < size) {
        const std::string part = reader.read(size - text.size());
        if (part.empty()) break;
        text += part;
    }
    return text;
}

// The errno of the std::system_error that it throws; 0: none.
template <class Action>
int error_of(Action action) {
    try {
        action();
    } catch (const std::system_error& e) {
        return e.code().value();
    }
    return 0;
}

// Whether it comes to its end while the child does not read; if not, the child's death ends it.
bool ends_by_itself(int child, const std::function<void()>& action) {
    std::atomic<bool> done{false};
    std::thread thread([&] {
        action();
        done = true;
    });
    bool ended = test::eventually([&] { return done.load(); });
    if (!ended) kill(child, SIGKILL);
    thread.join();
    return ended;
}

}  // namespace

TEST_CASE("to give a child up does not wait for a pipe that is full", "[core][subprocess]") {
    auto policy = GENERATE(sp::OnDestroy::kill, sp::OnDestroy::stop, sp::OnDestroy::detach);
    sp::Popen child(
        {"sleep", "1000"},
        {.std_in = sp::PIPE, .on_destroy = policy, .stop_ladder = {{SIGTERM}, {SIGKILL}}});
    int pid = child.pid();
    int capacity = fcntl(child.std_in().fd(), F_GETPIPE_SZ);
    REQUIRE(capacity > 0);
    child.std_in().write(std::string(static_cast<std::size_t>(capacity), 'x'));
    child.std_in().stream() << "y";
    bool by_call = GENERATE(false, true);
    CHECK(ends_by_itself(pid, [&] {
        if (by_call) child.detach();
        sp::Popen given_up = std::move(child);
    }));
    if (by_call || policy == sp::OnDestroy::detach) kill(pid, SIGKILL);
    CHECK(test::eventually([&] {
        sp::Popen({"true"}).wait();  // reaps what was detached
        return kill(pid, 0) == -1;
    }));
}

TEST_CASE("what a stream holds back at the end is written if the pipe takes it",
          "[core][subprocess]") {
    sp::Popen child = cat();
    {
        sp::PipeWriter writer = std::move(child.std_in());
        writer.stream() << "the last";
    }
    CHECK(child.std_out().read() == "the last");
}

TEST_CASE("what a stream holds back is sent once, though a forked child has it, too",
          "[core][subprocess]") {
    std::optional<sp::Popen> child = cat();
    child->std_in().stream() << "once\n";
    const pid_t fork = ::fork();
    if (fork == 0) {
        child.reset();
        ::_exit(0);
    }
    REQUIRE(fork > 0);
    CHECK(::waitpid(fork, nullptr, 0) == fork);
    child->std_in().close();
    CHECK(child->std_out().read() == "once\n");
    CHECK(child->wait() == 0);
}

TEST_CASE("a writer and its stream write in their order", "[core][subprocess]") {
    SECTION("before a conversation") {
        sp::Popen child = cat();
        child.std_in().stream() << "first ";
        CHECK(child.communicate("second").std_out == "first second");
    }
    SECTION("before a conversation, encoded") {
        sp::Popen child = cat({.encoding = "UTF-16LE"});
        child.std_in().stream() << "first \u00e4 ";
        CHECK(child.communicate("second \u00f6").std_out == "first \u00e4 second \u00f6");
    }
    SECTION("before a conversation without input") {
        sp::Popen child = cat();
        child.std_in().stream() << "only";
        CHECK(child.communicate().std_out == "only");
    }
    SECTION("by turns") {
        sp::Popen child = cat({.bufsize = GENERATE(-1, 0, 100)});
        sp::PipeWriter& writer = child.std_in();
        writer.write("a");
        writer.stream() << "b" << 'c';
        writer.write("d");
        writer.stream() << "e";
        writer.flush();
        CHECK(read_whole(child.std_out(), 5) == "abcde");
        writer.stream() << "f" << std::flush;
        CHECK(child.std_out().read(1) == "f");
        writer.stream() << "g";
        writer.close();
        CHECK(child.std_out().read() == "g");
    }
}

TEST_CASE("a stream gathers as bufsize says", "[core][subprocess]") {
    SECTION("0: nothing") {
        sp::Popen child = cat({.bufsize = 0});
        child.std_in().stream() << "x";
        CHECK(child.std_out().read(1) == "x");
    }
    SECTION("1: up to the end of a line") {
        sp::Popen child = cat({.bufsize = 1, .encoding = "UTF-16LE"});
        child.std_in().stream() << "one" << '\n' << "two";
        CHECK(child.std_out().read_line() == "one");
        CHECK(child.communicate().std_out == "two");
    }
    SECTION("n: up to n bytes") {
        sp::Popen child = cat({.bufsize = 3});
        child.std_in().stream() << "a"
                                << "b"
                                << "c"
                                << "d";
        CHECK(child.std_out().read(3) == "abc");
        CHECK(child.communicate().std_out == "d");
    }
}

TEST_CASE("a reader and its stream read in their order", "[core][subprocess]") {
    int number = 0;
    std::string word;
    sp::Popen child = says("42 rest\\nmore words\\n");
    child.std_out().stream() >> number;
    CHECK(number == 42);
    SECTION("before a conversation") {
        CHECK(child.communicate().std_out == " rest\nmore words\n");
    }
    SECTION("by turns") {
        CHECK(child.std_out().read_line() == " rest");
        child.std_out().stream() >> word;
        CHECK(word == "more");
        CHECK(child.std_out().read(3) == " wo");
        CHECK(child.std_out().stream().get() == 'r');
        child.std_out().stream().unget();
        CHECK(child.std_out().read() == "rds\n");
        CHECK(child.std_out().stream().get() == std::istream::traits_type::eof());
    }
    SECTION("what was read ahead is known to be so") {
        CHECK(child.std_out().buffered() != 0);
        CHECK_THROWS_AS(sp::InputRedirect(child.std_out()), std::logic_error);
    }
}

TEST_CASE("a stream of an unbuffered reader takes from the pipe only what it needs",
          "[core][subprocess]") {
    sp::Popen child = says("one\\ntwo\\n", {.bufsize = 0});
    std::string line;
    std::getline(child.std_out().stream(), line);
    CHECK(line == "one");
    CHECK(child.std_out().buffered() == 0);
    CHECK(sp::Popen({"cat"}, {.std_in = child.std_out(), .std_out = sp::PIPE})
              .communicate()
              .std_out == "two\n");
}

TEST_CASE("flush() and close() report what a stream has met", "[core][subprocess]") {
    sp::Popen child = dead();
    sp::PipeWriter& writer = child.std_in();
    SECTION("what it still holds back") {
        writer.stream() << "x";
        CHECK(error_of([&] { writer.flush(); }) == EPIPE);
        writer.stream() << "x";
        CHECK(error_of([&] { writer.close(); }) == EPIPE);
    }
    SECTION("what it has lost: once") {
        writer.stream() << std::string(100'000, 'x');
        CHECK(writer.stream().bad());
        CHECK(error_of([&] { writer.flush(); }) == EPIPE);
        CHECK_NOTHROW(writer.close());
    }
    SECTION("what its own flush has lost") {
        writer.stream() << "x" << std::flush;
        CHECK(writer.stream().bad());
        CHECK(error_of([&] { writer.close(); }) == EPIPE);
        CHECK(writer.closed());
        CHECK_NOTHROW(writer.close());
    }
    SECTION("as an exception of the stream, if that is wanted") {
        writer.stream().exceptions(std::ios::badbit);
        CHECK(error_of([&] { writer.stream() << "x" << std::flush; }) == EPIPE);
    }
    SECTION("to communicate(), it is no error that the child is gone") {
        writer.stream() << "x" << std::flush;
        CHECK_NOTHROW(child.communicate());
    }
}

TEST_CASE("text that cannot be encoded is reported, the rest arrives", "[core][subprocess]") {
    sp::Popen child = cat({.encoding = "ASCII"});
    child.std_in().stream() << "before ";
    child.std_in().stream() << "\u00e4";
    CHECK(child.std_in().stream().bad());
    SECTION("by flush()") {
        CHECK_THROWS_AS(child.std_in().flush(), sp::DecodeError);
        CHECK(child.std_out().read(7) == "before ");
        CHECK_NOTHROW(child.std_in().close());
    }
    SECTION("by close()") {
        CHECK_THROWS_AS(child.std_in().close(), sp::DecodeError);
        CHECK(child.std_out().read() == "before ");
    }
    SECTION("by communicate()") {
        CHECK_THROWS_AS(child.communicate("after"), sp::DecodeError);  // it has not begun
        CHECK(child.communicate("after").std_out == "before after");
    }
}

TEST_CASE("a stream is at its end when the pipe is closed", "[core][subprocess]") {
    sp::Popen child = cat({.on_destroy = sp::OnDestroy::kill});
    std::ostream& out = child.std_in().stream();
    std::istream& in = child.std_out().stream();
    out << "x" << std::flush;
    CHECK(in.get() == 'x');
    SECTION("by close()") {
        out << "yz" << std::flush;
        CHECK(in.get() == 'y');
        child.std_in().close();
        child.std_out().close();
        CHECK(child.std_out().buffered() == 0);
    }
    SECTION("by communicate()") { child.communicate(); }
    SECTION("by detach()") {
        child.detach();
        child.kill();
        child.wait();
    }
    CHECK(in.get() == std::istream::traits_type::eof());
    CHECK(in.eof());
    CHECK_FALSE(out << "y");
    CHECK_FALSE(out.flush());
    CHECK_THROWS_AS(child.std_in().stream(), std::logic_error);
    CHECK_THROWS_AS(child.std_out().stream(), std::logic_error);
}

TEST_CASE("a stream moves along with its pipe", "[core][subprocess]") {
    sp::Popen child = cat();
    std::ostream& out = child.std_in().stream();
    std::istream& in = child.std_out().stream();
    out << "1 ";
    sp::PipeWriter writer = std::move(child.std_in());
    sp::PipeReader reader = std::move(child.std_out());
    CHECK(child.std_in().closed());
    CHECK(child.std_out().closed());
    out << "2 3";
    writer.close();
    int number = 0;
    in >> number >> number;
    CHECK(number == 2);
    CHECK(reader.read() == " 3");
}

TEST_CASE("reads of any size return all there is, and no more", "[core][subprocess]") {
    const std::size_t kAll = 3'000'000;
    sp::Popen child({"sh", "-c", "yes abcdefg | head -c 3000000"}, {.std_out = sp::PIPE});
    std::string all;
    for (std::size_t size : {1u, 65535u, 65536u, 65537u, 1000000u}) {
        std::string piece = child.std_out().read(size);
        CHECK(piece.size() == size);
        all += piece;
    }
    SECTION("more than there is") { all += child.std_out().read(200'000'000); }
    SECTION("all") { all += child.std_out().read(); }
    SECTION("some") {
        for (std::string piece; !(piece = child.std_out().read_some()).empty();) {
            CHECK(piece.size() <= 65536);
            all += piece;
        }
    }
    CHECK(child.std_out().buffered() == 0);
    REQUIRE(all.size() == kAll);
    bool right = true;
    for (std::size_t i = 0; i < kAll; ++i) right = right && all[i] == "abcdefg\n"[i % 8];
    CHECK(right);
}

#ifndef TEST_SANITIZED  // they have heaps of their own
TEST_CASE("a large read makes do with the address space that there is", "[core][subprocess]") {
    constexpr std::size_t kOutput = 6 << 20;
    CHECK(test::in_fork([&] {
              std::size_t pages = 0;
              std::ifstream("/proc/self/statm") >> pages;
              // Enough for the output twice over, not for the room that is asked for first.
              rlim_t limit = pages * 4096 + 4 * kOutput;
              rlimit space = {limit, limit};
              if (setrlimit(RLIMIT_AS, &space) != 0) return 1;
              sp::Popen child({"head", "-c", "6M", "/dev/zero"}, {.std_out = sp::PIPE});
              return child.std_out().read() == std::string(kOutput, 0) ? 0 : 2;
          }) == 0);
}
#endif

}  // namespace pipe_stream_test
