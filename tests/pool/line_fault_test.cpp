// Output::lines where memory is short, where poll(2) fails, and where somebody writes for ever.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>
#include <string_view>
#include <thread>

#include "../support/faults.hpp"
#include "line_printer.hpp"
#include "stdout_file.hpp"
#include "support.hpp"
#include "sys/sys.hpp"

using sidestep::detail::LinePrinter;
using test::Call;
using test::Fault;

namespace {

constexpr int kLines = 50;

void write_lines(int fd) {
    for (int i = 0; i < kLines; ++i) (void)!write(fd, "a line of a worker\n", 19);
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
    {
        const Fault fault(Call::allocation, 1, 0, times);
        write_lines(ends.out.get());
        CHECK(test::eventually([&] { return fault.happened(); }));
    }
    CHECK(test::eventually([&] { return has_all_lines(file); }));
    printer.stop();
}

TEST_CASE("lines of workers are kept where memory is there again only after the end",
          "[pool][output][lines][faults]") {
    const test::StdoutFile file;
    LinePrinter printer("worker {index}: ");
    auto ends = printer.add(3, 42);
    {
        const Fault fault(Call::allocation, 1, 0,
                          40);  // ten milliseconds each, two seconds' patience
        write_lines(ends.out.get());
        CHECK(test::eventually([&] { return fault.happened(); }));
        printer.stop();
    }
    CHECK(has_all_lines(file));
}

TEST_CASE("lines of workers come out where poll fails", "[pool][output][lines][faults]") {
    const int error = GENERATE(EINTR, ENOMEM, EINVAL);
    const test::StdoutFile file;
    LinePrinter printer("worker {index}: ");
    auto ends = printer.add(3, 42);
    {
        const Fault fault(Call::poll, error, 0, 5);
        write_lines(ends.out.get());
        CHECK(test::eventually([&] { return fault.happened(); }));
        CHECK(test::eventually([&] { return has_all_lines(file); }));
    }
    printer.stop();
}

TEST_CASE("printing of lines ends although somebody writes for ever",
          "[pool][output][lines][faults]") {
    const auto before = signal(SIGPIPE, SIG_IGN);
    {
        const sidestep::Fd nothing(open("/dev/null", O_WRONLY | O_CLOEXEC));
        const test::Redirected aside(STDOUT_FILENO, nothing.get());
        LinePrinter printer("");
        auto ends = printer.add(0, 42);
        std::thread writer([fd = ends.out.get()] {
            const std::string lines(4096, '\n');
            while (write(fd, lines.data(), lines.size()) > 0) {
            }
        });
        printer.stop();
        writer.join();  // nobody reads any more: EPIPE
    }
    signal(SIGPIPE, before);
}
