// The tests' own main: takes over in spawned workers first, then runs Catch2.
#define CATCH_CONFIG_RUNNER
#define CATCH_CONFIG_CONSOLE_WIDTH 200  // tools/parity reads its lists: no tag is broken
#define CATCH_CONFIG_NO_POSIX_SIGNALS   // forked workers would inherit its handlers
#define CATCH_CONFIG_NOSTDOUT           // Catch::cout() below is what it writes to
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <iostream>
#include <streambuf>

#include "support.hpp"

namespace {

// What is said of a test goes to where stdout was at the beginning: a test that puts a file in its
// place has nothing of it there, and what failed meanwhile is seen. Not buffered: no child has it.
class FirstStdout : public std::streambuf {
  protected:
    int overflow(int c) override {
        const char byte = traits_type::to_char_type(c);
        return c == traits_type::eof() || xsputn(&byte, 1) == 1 ? traits_type::not_eof(c)
                                                                : traits_type::eof();
    }
    std::streamsize xsputn(const char* bytes, std::streamsize count) override {
        for (std::streamsize written = 0; written < count;) {
            const ssize_t n =
                write(fd_, bytes + written, static_cast<std::size_t>(count - written));
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) return written;
            written += n;
        }
        return count;
    }

  private:
    static constexpr int kHigh = 512;  // out of the way of tests that name a descriptor
    const int fd_ = std::max(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, kHigh), STDOUT_FILENO);
};

// Who runs the tests sends SIGTERM to one that takes too long: it says which test that was, and
// where the thread that got the signal was.
void say_where() {
    static const pid_t self = getpid();
    void* first[1];
    (void)backtrace(first, 1);  // loads what a signal handler may not load
    struct sigaction action {};
    action.sa_handler = [](int number) {
        if (getpid() == self) {
            test::write_running_test(STDERR_FILENO);
            void* frames[64];
            backtrace_symbols_fd(frames, backtrace(frames, 64), STDERR_FILENO);
        }
        raise(number);
    };
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
    sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

namespace Catch {

std::ostream& cout() {
    static FirstStdout buffer;
    static std::ostream stream(&buffer);
    return stream;
}
std::ostream& cerr() { return std::cerr; }
std::ostream& clog() { return std::clog; }

}  // namespace Catch

int main(int argc, char** argv) {
    test::initialize();
    Catch::cout();
    test::PrivateTemporary temporary;
    say_where();
    int failures = Catch::Session().run(argc, argv);
    bool clean = temporary.remove() && test::leaks_found() == 0;
    return failures != 0 || !clean ? 1 : 0;
}
