// Children whose owner is short of memory, or waits for them in two threads: none is lost.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include <catch2/catch.hpp>
#include <sidestep/process.hpp>
#include <sidestep/subprocess.hpp>

#include "faults.hpp"
#include "process_support.hpp"
#include "sys/sys.hpp"

namespace lost_child_test {

using namespace sidestep;
using test::Call;
using test::Fault;

namespace {

void sleep_on() {
    for (;;) ::pause();
}

}  // namespace

TEST_CASE("a child that is given up without memory is reaped all the same",
          "[subprocess][fault][injected]") {
    int pid = 0;
    bool needed_memory = false;
    {
        std::optional<subprocess::Popen> child(
            std::in_place, subprocess::Args({"sleep", "1000"}),
            subprocess::Options{.on_destroy = subprocess::OnDestroy::detach});
        pid = child->pid();
        Fault fault(Call::allocation, ENOMEM, 0, Fault::kEver);
        child.reset();
        needed_memory = fault.happened();
    }
    CHECK(!needed_memory);
    REQUIRE(::kill(pid, SIGKILL) == 0);
    CHECK(test::eventually([&] {  // whoever comes next reaps it
        (void)subprocess::run({"true"});
        return ::kill(pid, 0) < 0;
    }));
}

TEST_CASE("a join that another thread's close() overtakes waits for nothing else",
          "[process][fault][injected]") {
    static Process* joined;
    static int number, taker;
    static const sys::Pipe* idle;
    Process child({.start_method = StartMethod::spawn}, sleep_on);
    child.start();
    const sys::Pipe pipe = sys::make_pipe();
    joined = &child;
    idle = &pipe;
    number = child.sentinel();
    {
        Fault interrupted(Call::poll, EINTR);
        test::after_poll = [] {
            test::after_poll = nullptr;
            std::thread other([] {
                joined->kill();
                joined->join();
                joined->close();
                taker = ::fcntl(idle->read_end.get(), F_DUPFD_CLOEXEC, number);
            });
            other.join();
        };
        CHECK_THROWS_AS(child.join_for(test::kPatience), std::logic_error);
        CHECK(interrupted.happened());
    }
    test::after_poll = nullptr;
    CHECK(taker != number);  // it was held as long as it was waited for
    ::close(taker);
    CHECK(::fcntl(number, F_GETFD) < 0);
}

}  // namespace lost_child_test
