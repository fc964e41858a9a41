// Processes that are forked while others are started: what they have copies of.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include <catch2/catch.hpp>

#include "faults.hpp"
#include "sandbox.hpp"
#include "start/zygote.hpp"
#include "sys/parent_fd.hpp"
#include "sys/sys.hpp"

namespace fork_fault_test {

using namespace sidestep;

namespace {

// Forks, as another thread would, in the middle of a start: once.
int sibling = 0;
void fork_sibling() {
    test::after_poll = nullptr;
    sibling = ::fork();
    while (sibling == 0) ::pause();
}
[[noreturn]] void wait_for_signal(Fd) {
    for (;;) ::pause();
}
const BootEntry waiting_entry [[gnu::init_priority(200)]] (&wait_for_signal);

bool is_writable_pipe(int fd) {
    struct stat status = {};
    return ::fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode) &&
           (::fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY;
}

}  // namespace

TEST_CASE("a process that is forked while a child is started does not keep that child alive",
          "[fork][zygote][fault][injected]") {
    auto zygote = Zygote::fork_here();
    test::after_poll = &fork_sibling;
    Launched child = zygote->launch(&wait_for_signal, {});
    test::after_poll = nullptr;
    REQUIRE(sibling > 0);
    child.lifeline.reset();  // as the kernel does when this process is killed
    CHECK(child.wait_for_end(sys::Clock::now() + std::chrono::seconds(10)));
    (void)child.signal(SIGKILL);
    (void)child.wait();
    ::kill(sibling, SIGKILL);
    CHECK(::waitpid(sibling, nullptr, 0) == sibling);
}

TEST_CASE("whenever a process is forked, it has no parent's end of anything", "[fork][fault]") {
    int first = ::dup(STDERR_FILENO);
    ::close(first);
    std::atomic<bool> over{false};
    std::thread maker([&] {
        while (!over) (void)make_lifeline();
    });
    int code = 0;
    for (int i = 0; i < 100 && code == 0; ++i)
        code = test::in_sandbox([&] {
            for (int fd = first; fd < first + 10; ++fd)
                if (is_writable_pipe(fd)) return 1;
            return 0;
        });
    over = true;
    maker.join();
    CHECK(code == 0);
}

}  // namespace fork_fault_test
