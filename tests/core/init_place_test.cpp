// init() where there is no main() of one's own: in the constructor of a global object, and in a
// library that is loaded into somebody else's program.
#include <string>

#include <catch2/catch.hpp>
#include <sidestep/process.hpp>
#include <sidestep/subprocess.hpp>

#include "support.hpp"

namespace init_place_test {

using namespace sidestep;
using Catch::Matchers::Contains;

namespace {

const std::string kFolder = SIDESTEP_TEST_CHILDREN;

subprocess::CompletedProcess run(const subprocess::Args& args) {
    return subprocess::run(args, {.capture_output = true, .timeout = test::kPatience});
}

}  // namespace

TEST_CASE("a main() that calls init() sees all global objects by each start method",
          "[core][init]") {
    auto done = run({kFolder + "/main_init", "spawn", "fork", "forkserver"});
    CHECK(done.std_err.empty());
    for (const char* method : {"spawn", "fork", "forkserver"})
        CHECK_THAT(done.std_out, Contains(std::string("process ") + method + ": 2\n") &&
                                     Contains(std::string("pool ") + method + ": 2\n"));
}

TEST_CASE("where a global object calls init(), spawn is refused with the remedy, the rest works",
          "[core][init]") {
    auto done = run({kFolder + "/early_init", "spawn", "fork", "forkserver"});
    CHECK(done.std_err.empty());
    for (const char* what : {"process", "pool"}) {
        for (const char* method : {"fork", "forkserver"})
            CHECK_THAT(done.std_out, Contains(std::string(what) + " " + method + ": 2\n"));
        CHECK_THAT(done.std_out, Contains(std::string(what) + " spawn: a"));
    }
    CHECK_THAT(done.std_out,
               Contains("a process cannot be spawned: sidestep::init() was called before main()") &&
                   Contains("a pool's worker cannot be spawned: sidestep::init() was called") &&
                   Contains("int main(int argc, char** argv) { sidestep::init(); ... }") &&
                   Contains("use StartMethod::fork, or forkserver"));
}

TEST_CASE("a program whose global object calls init() is refused as somebody else's child, too",
          "[core][init]") {
    set_executable(kFolder + "/early_init");
    Process child({.start_method = StartMethod::spawn}, [] {});
    child.start();
    child.join();
    set_executable({});
    CHECK(child.exitcode() == 1);
    CHECK_THROWS_WITH(child.rethrow(), Contains("before it began"));
}

TEST_CASE("a library in somebody else's program forks, and says what to do instead of spawn",
          "[core][init]") {
    auto done = run(
        {kFolder + "/extension_host", kFolder + "/extension.so", "spawn", "fork", "forkserver"});
    CHECK(done.returncode == 0);
    CHECK(done.std_err.empty());
    for (const char* what : {"process", "pool"}) {
        for (const char* method : {"fork", "forkserver"})
            CHECK_THAT(done.std_out, Contains(std::string(what) + " " + method + ": 2\n"));
        CHECK_THAT(done.std_out, Contains(std::string(what) + " spawn: a"));
    }
    CHECK_THAT(done.std_out,
               Contains("cannot be spawned: sidestep::init() was called by " + kFolder +
                        "/extension.so, a library that was loaded when the program ran") &&
                   Contains("use StartMethod::fork, or forkserver") &&
                   Contains("set_executable()"));
}

}  // namespace init_place_test
