// The marks between the lines of tasks, and what takes them out again. White box.
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "line_printer.hpp"
#include "stdout_file.hpp"
#include "support.hpp"
#include "sys/sys.hpp"
#include "worker/line_mark.hpp"

namespace line_mark_test {

using namespace sidestep::detail;

namespace {

// The bytes of a mark.
std::string mark_of(const LineNonce& nonce, std::uint64_t number, const std::string& name) {
    const sidestep::sys::Pipe out = sidestep::sys::make_pipe(), err = sidestep::sys::make_pipe();
    LineMarker(nonce, out.write_end.get(), err.write_end.get()).begin_task(number, name);
    std::string bytes(4096, ' '), same(4096, ' ');
    bytes.resize(std::size_t(read(out.read_end.get(), bytes.data(), bytes.size())));
    same.resize(std::size_t(read(err.read_end.get(), same.data(), same.size())));
    CHECK(bytes == same);
    return bytes;
}

void write_all(int fd, const std::string& text) {
    REQUIRE(write(fd, text.data(), text.size()) == ssize_t(text.size()));
}

std::vector<std::byte> bytes_of(const std::string& text) {
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

}  // namespace

TEST_CASE("a mark is found wherever what was read ends", "[pool][output][lines][mark]") {
    const LineNonce nonce = make_line_nonce();
    const std::string before =
        GENERATE(std::string(), std::string("some text\n"), std::string(20, 'x'));
    const std::string name = GENERATE(std::string(), std::string("cat\n.jpg"));
    const std::string mark = mark_of(nonce, 10'000'000'010, name);
    const std::string all = before + mark + "behind it";
    for (std::size_t size = 0; size <= all.size(); ++size) {
        const LineMark found = LineMark::find(std::string_view(all).substr(0, size), nonce);
        CHECK(found.begin == std::min(size, before.size()));
        CHECK(found.size == (size < before.size() + mark.size() ? 0 : mark.size()));
        if (found.size == 0) continue;
        CHECK(found.number == 10'000'000'010);
        CHECK(found.name == name);
    }
}

TEST_CASE("no line waits since its end is like the begin of a mark",
          "[pool][output][lines][mark]") {
    const std::string line = "a line, with \xc3\xa4 and \xf0\x9f\x98\x80\n";
    for (int i = 0; i < 3000; ++i) {
        const LineNonce nonce = make_line_nonce();
        for (std::size_t size = 0; size <= line.size(); ++size)
            REQUIRE(LineMark::find(std::string_view(line).substr(0, size), nonce).begin == size);
    }
}

TEST_CASE("what looks like a mark, and is none, is text", "[pool][output][lines][mark]") {
    LineNonce nonce = make_line_nonce();
    for (char& c : nonce)  // printable: what is printed is compared line by line
        c = static_cast<char>('a' + (static_cast<unsigned char>(c) % 26));
    nonce.back() = 'A';  // unlike the first: else the text at the end has a mark in it
    LineNonce other = nonce;
    other.back() = 'B';
    const std::string word(nonce.data(), nonce.size());
    for (const std::string& text :
         {mark_of(other, 1, "name"), word.substr(0, 15), word.substr(1), word.substr(0, 15) + "\n",
          word.substr(0, 8) + word.substr(0, 15)}) {
        const LineMark found = LineMark::find(text + "Z", nonce);
        CHECK(found.size == 0);
        CHECK(found.begin == text.size() + 1);
    }
    // So is what comes right before one, and like its begin.
    const std::string text = word.substr(0, 15) + mark_of(nonce, 3, "three");
    CHECK(LineMark::find(text, nonce).begin == 15);
    CHECK(LineMark::find(text, nonce).name == "three");
}

TEST_CASE("marks that come in pieces are no part of any line", "[pool][output][lines][mark]") {
    const test::StdoutFile file;
    LinePrinter printer("{index} {number} {task}|");
    {
        auto ends = printer.add(7, 42);
        REQUIRE(ends.nonce);
        const std::string text = "before any\n" + mark_of(*ends.nonce, 1, "one") + "a\nb" +
                                 mark_of(*ends.nonce, 2, "two") + mark_of(*ends.nonce, 3, "three") +
                                 "\n" + std::string(ends.nonce->data(), 15);
        std::size_t done = 0;
        for (const char c : text) {
            write_all(ends.out.get(), std::string(1, c));
            // As often as not it has been read when the next one comes.
            if (++done % 2 == 0)
                CHECK(test::eventually([&] {
                    int waiting = 0;
                    return ioctl(ends.out.get(), FIONREAD, &waiting) == 0 && waiting == 0;
                }));
        }
        std::string begun;
        for (const std::string& line : test::lines_of(std::string(ends.nonce->data(), 15)))
            begun += "7 3 three|" + line + "\n";
        ends = {};
        CHECK(test::eventually([&] {
            return file.text() == "7 0 |before any\n7 1 one|a\n7 1 one|b\n7 3 three|\n" + begun;
        }));
    }
    printer.stop();
}

TEST_CASE("long lines of tasks come in pieces, each with the name", "[pool][output][lines][mark]") {
    const test::StdoutFile file;
    LinePrinter printer("{task}>");
    auto ends = printer.add(0, 42);
    const LineMarker marker(*ends.nonce, ends.out.get(), ends.err.get());
    const std::string part(30'000, 'x');
    for (const char* name : {"one", "two"}) {
        marker.begin_task(1, name);
        for (int i = 0; i < 5; ++i) write_all(ends.out.get(), part);
    }
    ends = {};
    printer.stop();
    std::string one, two;
    for (const std::string& line : test::lines_of(file.text())) {
        CHECK(line.size() < 100'000);
        (line.starts_with("one>") ? one : two) += line.substr(4);
        CHECK((line.starts_with("one>") || line.starts_with("two>")));
    }
    CHECK(one == std::string(5 * part.size(), 'x'));
    CHECK(two == one);
}

TEST_CASE("a pipe that is full is waited for, also one that does not block",
          "[pool][output][lines][mark]") {
    const LineNonce nonce = make_line_nonce();
    const bool blocks = GENERATE(true, false);
    const sidestep::sys::Pipe out = sidestep::sys::make_pipe(), err = sidestep::sys::make_pipe();
    sidestep::sys::set_nonblocking(out.write_end.get(), true);
    const std::string full(4096, 'x');
    std::size_t written = 0;
    for (ssize_t n; (n = write(out.write_end.get(), full.data(), full.size())) > 0;)
        written += std::size_t(n);
    sidestep::sys::set_nonblocking(out.write_end.get(), !blocks);
    std::thread reader([&, end = out.read_end.get()] {
        const std::size_t size = written + mark_of(nonce, 5, "name").size();
        std::string text(size, ' ');
        for (std::size_t got = 0; got < size;)
            got += std::size_t(read(end, &text[got], text.size() - got));
        CHECK(LineMark::find(text, nonce).begin == written);
        CHECK(LineMark::find(text, nonce).name == "name");
    });
    LineMarker(nonce, out.write_end.get(), err.write_end.get()).begin_task(5, "name");
    reader.join();
}

TEST_CASE("a descriptor that is another file gets no mark", "[pool][output][lines][mark]") {
    const LineNonce nonce = make_line_nonce();
    const sidestep::sys::Pipe out = sidestep::sys::make_pipe(), err = sidestep::sys::make_pipe();
    const LineMarker marker(nonce, out.write_end.get(), err.write_end.get());
    const test::StdoutFile file(out.write_end.get());
    marker.begin_task(1, "name");
    CHECK(file.text().empty());
    std::string text(100, ' ');
    CHECK(read(err.read_end.get(), text.data(), text.size()) > 0);  // that one is what it was
    // But what is descriptor 1 may be the pipe still.
    const test::Redirected standard(STDOUT_FILENO, err.write_end.get());
    const LineMarker other(nonce, err.write_end.get(), err.write_end.get());
    const test::StdoutFile in_its_place(err.write_end.get());
    other.begin_task(2, "other");
    text.resize(std::size_t(read(err.read_end.get(), text.data(), text.size())));
    CHECK(LineMark::find(text, nonce).name == "other");
}

TEST_CASE("a task's name comes behind its arguments, and leaves them as they are",
          "[pool][output][lines][mark]") {
    const std::string arguments = GENERATE(std::string(), std::string("some arguments"));
    const std::string name = GENERATE(std::string(), std::string("cat.jpg"));
    HeapBuffer buffer;
    buffer.write(arguments.data(), arguments.size());
    append_task_name(buffer, name);
    std::span<const std::byte> bytes = buffer.bytes();
    CHECK(take_task_name(bytes) == name);
    CHECK(std::vector<std::byte>(bytes.begin(), bytes.end()) == bytes_of(arguments));
}

TEST_CASE("a name is cut between two characters, and is one line", "[pool][output][lines][mark]") {
    HeapBuffer buffer;
    std::string name = "\n\t";
    for (int i = 0; i < 200; ++i) name += "\u00fc";
    append_task_name(buffer, name);
    std::span<const std::byte> bytes = buffer.bytes();
    CHECK(take_task_name(bytes) == "  " + name.substr(2, 254));
    CHECK(bytes.empty());
}

TEST_CASE("arguments without a name behind them are an error", "[pool][output][lines][mark]") {
    const std::string text = GENERATE(std::string(), std::string("x"), std::string("ab\x03\0", 4),
                                      std::string(400, '\x01'), std::string(65'600, '\xff'));
    const std::vector<std::byte> damaged = bytes_of(text);
    std::span<const std::byte> bytes(damaged);
    CHECK_THROWS_AS(take_task_name(bytes), sidestep::SerializationError);
}

TEST_CASE("what a prefix says of the task is filled in once", "[pool][output][lines][mark]") {
    CHECK(task_prefix("", 1, "x").empty());
    CHECK(task_prefix("{task}", 7, "{number}") == "{number}");
    CHECK(task_prefix("a{{task}{number}{tas", 7, "x{task}") == "a{x{task}7{tas");
    CHECK(prefix_names_tasks("a{number}"));
    CHECK(prefix_names_tasks("{task}"));
    CHECK_FALSE(prefix_names_tasks("{index} {pid} {task number}"));
}

}  // namespace line_mark_test
