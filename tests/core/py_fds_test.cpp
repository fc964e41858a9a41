// Which descriptors a child has, and parents without 0, 1 or 2: CPython's test_subprocess.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "py_support.hpp"
#include "sys/sys.hpp"

namespace py_fds_test {

using namespace py;

namespace {

// Descriptors without close-on-exec: any child could inherit them.
std::vector<Fd> inheritable_fds(int count) {
    std::vector<Fd> fds;
    for (int i = 0; i < count; ++i) fds.emplace_back(open("/dev/null", O_RDWR));
    return fds;
}

std::set<int> numbers(const std::vector<Fd>& fds) {
    std::set<int> result;
    for (const Fd& fd : fds) result.insert(fd.get());
    return result;
}

std::set<int> common(const std::set<int>& a, const std::set<int>& b) {
    std::set<int> result;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(),
                          std::inserter(result, result.end()));
    return result;
}

const sp::Args kAppleOrange = {"sh", "-c", "printf apple; printf orange >&2"};

// Output of a child whose parent lacks the given standard streams. The parent's ends of its pipes
// take the place of none of them.
struct WithClosed {
    sp::Output output = {};
    bool above_stdio = false;
};

WithClosed with_closed(std::initializer_list<int> closed) {
    SavedStdio stdio;
    sp::Options options = {.std_in = stdio.saved(0), .std_out = sp::PIPE, .std_err = sp::PIPE};
    for (int fd : closed) close(fd);
    sp::Popen child(kAppleOrange, options);
    bool above = child.std_out().fd() > 2 && child.std_err().fd() > 2 && child.pidfd() > 2;
    return {child.communicate(), above};
}

// What a child that gets descriptors 0, 1 and 2 of its parent in another order has written.
struct Swapped {
    int returncode = -1;
    std::string out = {};
    std::string err = {};
    friend bool operator==(const Swapped&, const Swapped&) = default;
};

const sp::Args kTellInput = {"sh", "-c", "printf 'got %s' \"$(cat)\"; printf err >&2"};

Swapped swap(int in, int out, int err, bool inheritable) {
    Swapped result;
    Fd files[3] = {file_with(""), file_with(""), file_with("")};
    {
        SavedStdio stdio;
        for (int fd = 0; fd < 3; ++fd) {
            dup2(files[fd].get(), fd);
            set_inheritable(fd, inheritable);
        }
        [[maybe_unused]] auto n = write(in, "STDIN", 5);
        lseek(in, 0, SEEK_SET);
        sp::Popen child(kTellInput, {.std_in = in, .std_out = out, .std_err = err});
        result.returncode = child.wait();
    }
    result.out = contents(files[out].get());
    result.err = contents(files[err].get());
    return result;
}

// The parent has two of 0, 1, 2 open; they become two (others) of the child. Which number the
// child has written to each of them, or an error.
std::string swap_with_one_closed(std::array<int, 2> from, std::array<int, 2> to) {
    Fd files[2] = {file_with(""), file_with("")};
    int closed = 3 - from[0] - from[1], skipped = 3 - to[0] - to[1];
    int returncode = -1;
    {
        SavedStdio stdio;
        for (std::size_t i = 0; i < 2; ++i) dup2(files[i].get(), from[i]);
        close(closed);
        sp::Options options;
        for (std::size_t i = 0; i < 2; ++i) {
            if (to[i] == 0) options.std_in = from[i];
            if (to[i] == 1) options.std_out = from[i];
            if (to[i] == 2) options.std_err = from[i];
        }
        const char* tell = "for fd in 0 1 2; do test $fd = $0 || printf $fd >&$fd || exit 1; done";
        returncode = sp::call({"sh", "-c", tell, std::to_string(skipped)}, options);
    }
    if (returncode != 0) return "returncode " + std::to_string(returncode);
    return contents(files[0].get()) + "," + contents(files[1].get());
}

}  // namespace

TEST_CASE("pipes work when the parent has closed some of 0, 1 and 2",
          "[subprocess][py:POSIXProcessTestCase.test_close_fd_0]"
          "[py:POSIXProcessTestCase.test_close_fd_1][py:POSIXProcessTestCase.test_close_fd_2]"
          "[py:POSIXProcessTestCase.test_close_fds_0_1][py:POSIXProcessTestCase.test_close_fds_0_2]"
          "[py:POSIXProcessTestCase.test_close_fds_1_2]"
          "[py:POSIXProcessTestCase.test_close_fds_0_1_2]") {
    for (auto closed :
         {std::initializer_list<int>{0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2}, {0, 1, 2}}) {
        auto [output, above_stdio] = with_closed(closed);
        CAPTURE(std::vector<int>(closed));
        CHECK(above_stdio);
        CHECK(output.std_out == "apple");
        CHECK(output.std_err == "orange");
    }
}

TEST_CASE("a child starts without 0 and 1, and its output reaches nothing of ours",
          "[subprocess][py:POSIXProcessTestCase.test_small_errpipe_write_fd]") {
    // Both ways of starting: whatever reports a failed start must not become the child's 1.
    for (bool fork : {false, true}) {
        std::optional<std::string> error;
        std::optional<int> returncode;
        std::set<int> fds;
        auto [reader, writer] = sidestep::sys::make_pipe();
        {
            SavedStdio stdio;
            close(0);
            close(1);
            sp::Options options = {.std_err = sp::DEVNULL};
            if (fork) options.preexec_fn = [] {};
            try {
                sp::Popen child({"echo", "StartError:0:not close-on-exec"}, options);
                returncode = child.wait();
                options.std_err = writer.get();
                sp::call({"sh", "-c", kChild + " fds >&2"}, options);
            } catch (const std::exception& e) {
                error = e.what();
            }
        }
        writer.reset();
        char buffer[64] = {};
        CHECK(read(reader.get(), buffer, sizeof buffer - 1) > 0);
        CHECK_FALSE(error);
        CHECK(returncode);
        fds = parse_fds(buffer);
        CHECK_FALSE(fds.contains(0));
    }
}

TEST_CASE("files become 0, 1 and 2 of the child in any order",
          "[subprocess][py:POSIXProcessTestCase.test_remapping_std_fds]") {
    Fd files[3] = {file_with(""), file_with("STDIN"), file_with("")};
    int returncode = -1;
    {
        SavedStdio stdio;
        for (int fd = 0; fd < 3; ++fd) dup2(files[fd].get(), fd);
        sp::Popen child(
            kTellInput,
            {.std_in = files[1].get(), .std_out = files[2].get(), .std_err = files[0].get()});
        returncode = child.wait();
    }
    CHECK(returncode == 0);
    CHECK(contents(files[2].get()) == "got STDIN");
    CHECK(contents(files[0].get()) == "err");
}

TEST_CASE("0, 1 and 2 of the parent become those of the child in any order",
          "[subprocess][py:POSIXProcessTestCase.test_swap_fds]") {
    std::array<int, 3> order = {0, 1, 2};
    do {
        CAPTURE(order);
        for (bool inheritable : {true, false})
            CHECK((swap(order[0], order[1], order[2], inheritable) ==
                   Swapped{0, "got STDIN", "err"}));
    } while (std::next_permutation(order.begin(), order.end()));
}

TEST_CASE("two of 0, 1 and 2 become two others of the child when the third is closed",
          "[subprocess][py:POSIXProcessTestCase.test_swap_std_fds_with_one_closed]") {
    using Pair = std::array<int, 2>;
    for (Pair from : {Pair{0, 1}, Pair{0, 2}, Pair{1, 2}})
        for (Pair to : {Pair{0, 1}, Pair{0, 2}, Pair{1, 0}, Pair{1, 2}, Pair{2, 0}, Pair{2, 1}}) {
            CAPTURE(from, to);
            CHECK(swap_with_one_closed(from, to) ==
                  std::to_string(to[0]) + "," + std::to_string(to[1]));
        }
}

TEST_CASE("the pipes of one child are not inherited by the next, even without close_fds",
          "[subprocess][py:POSIXProcessTestCase.test_pipe_cloexec]") {
    sp::Popen first(
        {"cat"},
        {.std_in = sp::PIPE, .std_out = sp::PIPE, .std_err = sp::PIPE, .close_fds = false});
    std::set<int> seen = fds_in_child({.close_fds = false});
    CHECK(seen.contains(1));
    std::set<int> pipes = {first.std_in().fd(), first.std_out().fd(), first.std_err().fd()};
    CHECK(common(seen, pipes).empty());
}

TEST_CASE("a pipe between two programs ends when its writer does, even without close_fds",
          "[subprocess][py:POSIXProcessTestCase.test_pipe_cloexec_real_tools]") {
    const std::string data = "zxcvbnzxcvbnzxcvbnzxcvbn\n";
    sp::Popen cat({"cat"}, {.std_in = sp::PIPE, .std_out = sp::PIPE, .close_fds = false});
    sp::Popen grep({"grep", "zxcvbn"},
                   {.std_in = cat.std_out(), .std_out = sp::PIPE, .close_fds = false});
    cat.std_in().write(data);
    cat.std_in().close();
    // Neither may hold a copy of a writer: grep prints at the end of its input.
    pollfd entry = {grep.std_out().fd(), POLLIN, 0};
    bool readable = poll(&entry, 1, 60'000) == 1;
    CHECK(readable);
    if (!readable) grep.kill();
    CHECK(grep.std_out().read() == data);
    CHECK(grep.wait() == 0);
}

TEST_CASE("close_fds is what keeps inheritable descriptors out of the child",
          "[subprocess][py:POSIXProcessTestCase.test_close_fds]") {
    std::vector<Fd> fds = inheritable_fds(11);
    const std::set<int> open_fds = numbers(fds);
    CHECK(common(fds_in_child({.close_fds = false}), open_fds) == open_fds);
    CHECK(fds_in_child({.close_fds = true}) == std::set<int>{0, 1, 2});
    sp::Options some = {.close_fds = true};
    std::set<int> expected = {0, 1, 2};
    for (auto it = open_fds.begin(); some.pass_fds.size() < 8; ++it) {
        some.pass_fds.emplace_back(*it);
        expected.insert(*it);
    }
    std::reverse(some.pass_fds.begin(), some.pass_fds.end());
    CHECK(fds_in_child(some) == expected);
}

TEST_CASE("close_fds closes descriptors above a limit that was lowered after they were opened",
          "[subprocess][py:POSIXProcessTestCase.test_close_fds_when_max_fd_is_lowered]") {
    std::vector<Fd> high;
    for (int fd : {64, 65, 100, 257, 300}) high.emplace_back(fcntl(1, F_DUPFD, fd));
    CHECK(numbers(high).size() == 5);
    FdLimit limit(48);
    CHECK(common(fds_in_child({.close_fds = false}), numbers(high)) == numbers(high));
    CHECK(fds_in_child({.close_fds = true}) == std::set<int>{0, 1, 2});
}

TEST_CASE("pass_fds, and no others, survive, whatever close_fds says",
          "[subprocess][py:POSIXProcessTestCase.test_pass_fds]") {
    std::vector<Fd> fds = inheritable_fds(10);
    for (const Fd& fd : fds) {
        const std::set<int> expected = {0, 1, 2, fd.get()};
        CHECK(fds_in_child({.close_fds = true, .pass_fds = {fd.get()}}) == expected);
        CHECK(fds_in_child({.close_fds = false, .pass_fds = {fd.get()}}) == expected);
    }
}

TEST_CASE("pass_fds survive whether they are close-on-exec or not, and stay so in the parent",
          "[subprocess][py:POSIXProcessTestCase.test_pass_fds_inheritable]") {
    auto [inheritable, closing] = sidestep::sys::make_pipe();
    set_inheritable(inheritable.get(), true);
    sp::Options options = {.pass_fds = {inheritable.get(), closing.get()}};
    CHECK(fds_in_child(options) == std::set<int>{0, 1, 2, inheritable.get(), closing.get()});
    CHECK(is_inheritable(inheritable.get()));
    CHECK_FALSE(is_inheritable(closing.get()));
}

TEST_CASE("pass_fds survive even if they are redirected as well",
          "[subprocess][py:POSIXProcessTestCase.test_pass_fds_redirected]") {
    Fd in(open("/dev/null", O_RDWR | O_CLOEXEC)), err(open("/dev/null", O_RDWR | O_CLOEXEC));
    auto [reader, writer] = sidestep::sys::make_pipe();
    int out = writer.get();
    {
        sp::Popen child({kChild, "fds"}, {.std_in = in.get(),
                                          .std_out = out,
                                          .std_err = err.get(),
                                          .close_fds = true,
                                          .pass_fds = {in.get(), out, err.get()}});
        CHECK(child.wait() == 0);
    }
    char buffer[256] = {};
    CHECK(read(reader.get(), buffer, sizeof buffer - 1) > 0);
    CHECK(parse_fds(buffer) == std::set<int>{0, 1, 2, in.get(), out, err.get()});
}

}  // namespace py_fds_test
