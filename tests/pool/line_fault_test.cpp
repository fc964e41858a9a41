// Output::lines where memory is short, where poll(2) fails, and where somebody writes for ever.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <string>
#include <string_view>
#include <thread>

#include "faults.hpp"
#include "line_printer.hpp"
#include "stdout_file.hpp"
#include "support.hpp"
#include "sys/sys.hpp"
#include "worker/line_mark.hpp"

namespace line_fault_test {

using sidestep::detail::LineMarker;
using sidestep::detail::LinePrinter;
using test::Call;
using test::Fault;

namespace {

constexpr int kLines = 50;

void write_lines(int fd) {
    for (int i = 0; i < kLines; ++i) (void)!write(fd, "a line of a worker\n", 19);
}

// Writes them to a printer while calls fail: true when one has.
bool write_lines_with(Call call, int error, int times, int fd) {
    const Fault fault(call, error, 0, times);
    write_lines(fd);
    return test::eventually([&] { return fault.happened(); });
}

bool has_all_lines(const test::StdoutFile& file) {
    const std::string_view line = "worker 3: a line of a worker\n";
    const std::string text = file.text();
    if (text.size() != kLines * line.size()) return false;
    for (std::size_t at = 0; at < text.size(); at += line.size())
        if (std::string_view(text).substr(at, line.size()) != line) return false;
    return true;
}

}  // namespace

TEST_CASE("lines of workers are kept while there is no memory", "[pool][output][lines][faults]") {
    const int times = GENERATE(1, 2, 3, 7);
    const test::StdoutFile file;
    LinePrinter printer("worker {index}: ");
    auto ends = printer.add(3, 42);
    const bool failed = write_lines_with(Call::allocation, 1, times, ends.out.get());
    CHECK(failed);  // this takes memory itself
    CHECK(test::eventually([&] { return has_all_lines(file); }));
    printer.stop();
}

TEST_CASE("lines come out when there is memory again, although nothing follows",
          "[pool][output][lines][faults]") {
    const int skip =
        GENERATE(0, 1);  // the bytes that are read, and the lines that are made of them
    const test::StdoutFile file;
    LinePrinter printer("worker {index}: ");
    auto ends = printer.add(3, 42);
    bool failed = false;
    {
        const Fault fault(Call::allocation, 1, skip, 1);
        (void)!write(ends.out.get(), "a line of a worker\n", 19);
        failed = test::eventually([&] { return fault.happened(); });
    }
    CHECK(failed);
    CHECK(test::eventually([&] { return file.text() == "worker 3: a line of a worker\n"; }));
    printer.stop();
}

TEST_CASE("lines of tasks keep their names where memory is short",
          "[pool][output][lines][faults]") {
    const int skip = GENERATE(range(0, 5));
    const test::StdoutFile file;
    LinePrinter printer("worker {index}, a task called {task}: ");
    auto ends = printer.add(3, 42);
    const LineMarker marker(*ends.nonce, ends.out.get(), ends.err.get());
    bool failed = false;
    {
        const Fault fault(Call::allocation, 1, skip, 1);
        for (const char* name : {"the first one", "the second one"}) {
            marker.begin_task(1, name);
            (void)!write(ends.out.get(), "a line\n", 7);
        }
        failed = test::eventually([&] { return fault.happened(); });
    }
    CHECK(failed);
    CHECK(test::eventually([&] {
        return file.text() ==
               "worker 3, a task called the first one: a line\n"
               "worker 3, a task called the second one: a line\n";
    }));
    printer.stop();
}

TEST_CASE("lines of workers are kept where memory is there again only after the end",
          "[pool][output][lines][faults]") {
    const test::StdoutFile file;
    LinePrinter printer("worker {index}: ");
    auto ends = printer.add(3, 42);
    bool failed = false;
    {
        const Fault fault(Call::allocation, 1, 0, 10);  // some 10 ms each, two seconds' patience
        write_lines(ends.out.get());
        failed = test::eventually([&] { return fault.happened(); });
        printer.stop();
    }
    CHECK(failed);
    CHECK(has_all_lines(file));
}

TEST_CASE("lines of workers come out where poll fails", "[pool][output][lines][faults]") {
    const int error = GENERATE(EINTR, ENOMEM, EINVAL);
    const test::StdoutFile file;
    LinePrinter printer("worker {index}: ");
    auto ends = printer.add(3, 42);
    const bool failed = write_lines_with(Call::poll, error, 5, ends.out.get());
    CHECK(failed);
    CHECK(test::eventually([&] { return has_all_lines(file); }));
    printer.stop();
}

TEST_CASE("printing of lines ends although somebody writes for ever",
          "[pool][output][lines][faults]") {
    const auto before = signal(SIGPIPE, SIG_IGN);
    int error = 0;
    std::atomic<std::size_t> written{0};
    {
        const sidestep::Fd nothing(open("/dev/null", O_WRONLY | O_CLOEXEC));
        const test::Redirected aside(STDOUT_FILENO, nothing.get());
        LinePrinter printer(std::string(64, 'x'));  // it has far more to write than to read
        auto ends = printer.add(0, 42);
        std::thread writer([&, fd = ends.out.get()] {
            const std::string lines(4096, '\n');
            while (write(fd, lines.data(), lines.size()) > 0) written += lines.size();
            error = errno;
        });
        const auto twice_a_pipe = std::size_t(128) << 10;  // so it was read, and goes on
        CHECK(test::eventually([&] { return written > twice_a_pipe; }));
        printer.stop();
        writer.join();
    }
    CHECK(error == EPIPE);  // nobody reads any more
    signal(SIGPIPE, before);
}

}  // namespace line_fault_test
