// Children whose owner is short of memory: none is lost.
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <utility>

#include <catch2/catch.hpp>
#include <sidestep/subprocess.hpp>

#include "faults.hpp"
#include "process_support.hpp"

using namespace sidestep;
using test::Call;
using test::Fault;

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
