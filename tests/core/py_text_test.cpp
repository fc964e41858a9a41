// Text mode and buffering of the pipes: the contracts of CPython's test_subprocess.
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "py_support.hpp"

namespace py_text_test {

using namespace py;

namespace {

// Bytes that a child prints, as a command line for the shell.
const char* const kMixedNewlines =
    "printf 'line4\\n'; printf 'line5\\r\\n'; printf 'line6\\r'; printf '\\nline7';"
    "printf '\\nline8'";

std::string decode(std::string_view bytes, const std::string& encoding,
                   std::optional<sp::CodecErrors> errors = {}) {
    Fd file = file_with(bytes);
    sp::Popen child({"cat", "/proc/self/fd/3"}, {.std_in = sp::PIPE,
                                                 .std_out = sp::PIPE,
                                                 .pass_fds = {{file.get(), 3}},
                                                 .encoding = encoding,
                                                 .errors = errors});
    return child.communicate("").std_out;
}

// Bytes that wait in a pipe.
int in_pipe(int fd) {
    int bytes = -1;
    ioctl(fd, FIONREAD, &bytes);
    return bytes;
}

bool is_readable(int fd) {
    pollfd entry = {fd, POLLIN, 0};
    return poll(&entry, 1, 0) == 1 && (entry.revents & POLLIN) != 0;
}

}  // namespace

TEST_CASE("text and universal_newlines translate newlines of reads, however they are split",
          "[subprocess][py:ProcessTestCase.test_universal_newlines_and_text]") {
    const std::string command = "read line; printf '%s\\n' \"$line\"; printf 'line2\\n'; cat;" +
                                std::string(kMixedNewlines);
    for (bool older_name : {false, true}) {
        sp::Options options = {.std_in = sp::PIPE, .std_out = sp::PIPE};
        (older_name ? options.universal_newlines : options.text) = true;
        sp::Popen child({"sh", "-c", command}, options);
        child.std_in().write("line1\n");
        child.std_in().flush();
        CHECK(child.std_out().read_line() == "line1");
        child.std_in().write("line3\n");
        child.std_in().close();
        CHECK(child.std_out().read_line() == "line2");
        CHECK(child.std_out().read(6) == "line3\n");
        CHECK(child.std_out().read() == "line4\nline5\nline6\nline7\nline8");
    }
}

TEST_CASE("communicate translates the newlines of output",
          "[subprocess][py:ProcessTestCase.test_universal_newlines_communicate]") {
    sp::Popen child({"sh", "-c", kMixedNewlines},
                    {.std_out = sp::PIPE, .std_err = sp::PIPE, .universal_newlines = true});
    CHECK(child.communicate().std_out == "line4\nline5\nline6\nline7\nline8");
}

TEST_CASE("communicate sends text as it is, when std_in is the only pipe",
          "[subprocess][py:ProcessTestCase.test_universal_newlines_communicate_stdin]") {
    const char* check = "read a; test \"$a\" = line1 || exit 1; test \"$(cat)\" = line3";
    sp::Popen child({"sh", "-c", check}, {.std_in = sp::PIPE, .universal_newlines = true});
    child.communicate("line1\nline3\n");
    CHECK(child.returncode() == 0);
}

TEST_CASE("communicate without input works in text mode",
          "[subprocess][py:ProcessTestCase.test_universal_newlines_communicate_input_none]") {
    sp::Popen child({"true"},
                    {.std_in = sp::PIPE, .std_out = sp::PIPE, .universal_newlines = true});
    child.communicate();
    CHECK(child.returncode() == 0);
}

TEST_CASE("communicate translates on all three streams",
          "[subprocess]"
          "[py:ProcessTestCase.test_universal_newlines_communicate_stdin_stdout_stderr]") {
    const char* command =
        "read a; printf '%s\\n' \"$a\"; printf 'line2\\r'; printf 'eline2\\n' >&2; cat;"
        "printf 'line4\\nline5\\r\\n'; printf 'eline6\\r' >&2; printf 'eline7\\r\\nz' >&2";
    sp::Popen child(
        {"sh", "-c", command},
        {.std_in = sp::PIPE, .std_out = sp::PIPE, .std_err = sp::PIPE, .universal_newlines = true});
    sp::Output output = child.communicate("line1\nline3\n");
    CHECK(child.returncode() == 0);
    CHECK(output.std_out == "line1\nline2\nline3\nline4\nline5\n");
    CHECK(output.std_err == "eline2\neline6\neline7\nz");
}

TEST_CASE("newlines are found in encodings of several bytes, with and without a byte order mark",
          "[subprocess][py:ProcessTestCase.test_universal_newlines_communicate_encodings]") {
    std::string utf16 = "\xff\xfe", utf32be;
    for (char c : std::string("1\r\n2\r3\n4")) {
        utf16 += {c, '\0'};
        utf32be += {'\0', '\0', '\0', c};
    }
    CHECK(decode(utf16, "UTF-16") == "1\n2\n3\n4");
    CHECK(decode(utf32be, "UTF-32BE") == "1\n2\n3\n4");
}

TEST_CASE("bytes that are no text go to the error handler",
          "[subprocess][py:ProcessTestCase.test_communicate_errors]") {
    const char* bad = "[\x80\x80]";
    CHECK(decode(bad, "UTF-8", sp::CodecErrors::ignore) == "[]");
    CHECK(decode(bad, "UTF-8", sp::CodecErrors::replace) == "[\xef\xbf\xbd\xef\xbf\xbd]");
    CHECK(decode(bad, "UTF-8", sp::CodecErrors::surrogateescape) == bad);
    CHECK(decode(bad, "UTF-8", sp::CodecErrors::backslashreplace) == "[\\x80\\x80]");
    CHECK_THROWS_AS(decode(bad, "UTF-8", sp::CodecErrors::strict), sp::DecodeError);
}

TEST_CASE("by default, reads are buffered, and writes go out at once",
          "[subprocess][py:ProcessTestCase.test_io_buffered_by_default]") {
    sp::Popen child({"cat"}, {.std_in = sp::PIPE, .std_out = sp::PIPE});
    child.std_in().write("apple");
    CHECK(eventually([&] { return is_readable(child.std_out().fd()); }));
    CHECK(child.std_out().read(1) == "a");
    CHECK(child.std_out().buffered() == 4);
    CHECK_FALSE(is_readable(child.std_out().fd()));
    CHECK(child.std_out().read(4) == "pple");
}

TEST_CASE("with bufsize 0, what has not been asked for stays in the pipe",
          "[subprocess][py:ProcessTestCase.test_io_unbuffered_works]"
          "[py:POSIXProcessTestCase.test_select_unbuffered]") {
    sp::Popen child({"printf", "apple"}, {.bufsize = 0, .std_out = sp::PIPE});
    CHECK(child.std_out().read(4) == "appl");
    CHECK(child.std_out().buffered() == 0);
    CHECK(is_readable(child.std_out().fd()));
    char last = 0;
    CHECK(read(child.std_out().fd(), &last, 1) == 1);
    CHECK(last == 'e');
    CHECK(child.wait() == 0);
}

TEST_CASE("without bufsize, the default of -1 is used",
          "[subprocess][py:ProcessTestCase.test_bufsize_is_none]") {
    CHECK(sp::Options().bufsize == -1);
    CHECK(sp::Popen({"true"}).wait() == 0);
    CHECK(sp::Popen({"true"}, {.bufsize = -1}).wait() == 0);
}

TEST_CASE("in text mode with bufsize 1, a whole line goes out by itself",
          "[subprocess][py:ProcessTestCase.test_bufsize_equal_one_text_mode]") {
    sp::Popen child({"sh", "-c", "read line; echo \"$line\""}, {.bufsize = 1,
                                                                .std_in = sp::PIPE,
                                                                .std_out = sp::PIPE,
                                                                .std_err = sp::DEVNULL,
                                                                .universal_newlines = true});
    child.std_in().write("line\n");
    CHECK(child.std_out().read_line() == "line");
    CHECK(child.wait() == 0);
    sp::Popen reads_nothing({"sleep", "1000"}, {.bufsize = 1, .std_in = sp::PIPE, .text = true});
    reads_nothing.std_in().write("half a");
    CHECK(in_pipe(reads_nothing.std_in().fd()) == 0);
    reads_nothing.std_in().write(" line\n");
    CHECK(in_pipe(reads_nothing.std_in().fd()) == 12);
    reads_nothing.kill();
}

TEST_CASE("in binary mode, bufsize 1 is refused: there are no lines to send one by one",
          "[subprocess][py:ProcessTestCase.test_bufsize_equal_one_binary_mode]") {
    auto message = message_of<std::invalid_argument>(
        [] { sp::Popen child({"cat"}, {.bufsize = 1, .std_in = sp::PIPE}); });
    CHECK(contains_all(message, {"bufsize", "text"}));
}

}  // namespace py_text_test
