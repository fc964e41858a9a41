// The tests' own main: takes over in spawned workers first, then runs Catch2.
#define CATCH_CONFIG_RUNNER
#define CATCH_CONFIG_CONSOLE_WIDTH 200  // tools/parity reads its lists: no tag is broken
#define CATCH_CONFIG_NO_POSIX_SIGNALS   // forked workers would inherit its handlers
#include <execinfo.h>
#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "support.hpp"

namespace {

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

int main(int argc, char** argv) {
    test::initialize();
    test::PrivateTemporary temporary;
    say_where();
    int failures = Catch::Session().run(argc, argv);
    bool clean = temporary.remove() && test::leaks_found() == 0;
    return failures != 0 || !clean ? 1 : 0;
}
