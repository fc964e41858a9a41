// The pool in processes of their own (pool_program.cpp): hostile surroundings, and the end of the
// application.
#include <signal.h>
#include <sys/wait.h>

#include <sstream>

#include <catch2/catch.hpp>

#include "pool_support.hpp"

namespace process_test {

namespace mp = sidestep;
using test::methods;
using test::name_of;

namespace {

std::vector<pid_t> pids_in(const std::string& line) {
    std::istringstream text(line);
    std::vector<pid_t> pids;
    for (pid_t pid; text >> pid;) pids.push_back(pid);
    return pids;
}
void check_gone(const std::vector<pid_t>& pids) {
    for (pid_t pid : pids) {
        CAPTURE(pid);
        CHECK(test::eventually([&] { return !test::process_exists(pid); }));
    }
}

}  // namespace

TEST_CASE("without init() a pool that needs it is refused, and the error says what to do",
          "[pool][process][init]") {
    auto method = GENERATE(mp::StartMethod::spawn, mp::StartMethod::forkserver);
    test::ProgramResult result = test::run_program({"without-init", name_of(method)});
    CAPTURE(result.output);
    CHECK(result.exited_with(0));
    CHECK_THAT(result.output, Catch::Contains("sidestep::init()") && Catch::Contains("main()"));
}

TEST_CASE("a pool in a worker's start-up is refused, and the worker goes on",
          "[pool][process][init]") {
    auto method = GENERATE(mp::StartMethod::spawn, mp::StartMethod::forkserver);
    test::ProgramResult result = test::run_program({"in-start-up", name_of(method)});
    CAPTURE(result.output);
    CHECK(result.exited_with(0));
    CHECK_THAT(result.output, Catch::Contains("refused") && !Catch::Contains("accepted"));
}

TEST_CASE("workers that die at start-up again and again break the pool, with the reason",
          "[pool][process][broken][py:ProcessPoolExecutorTest.test_killed_child]") {
    test::ProgramResult result = test::run_program({"crash-loop", "spawn"});
    CAPTURE(result.output);
    CHECK(result.exited_with(0));
    CHECK_THAT(result.output, Catch::Contains("broken") && Catch::Contains("exited with code 9"));
    result = test::run_program({"crash-loop-at-once", "spawn"});
    CHECK(result.exited_with(0));
    CHECK_THAT(result.output, Catch::Contains("broken") && Catch::Contains("exited with code 9"));
    result = test::run_program({"crash-loop-at-once", "forkserver"});
    CAPTURE(result.output);
    CHECK_THAT(result.output,
               Catch::Contains("fork server") && Catch::Contains("exited with code 9"));
}

TEST_CASE("a start that fails half way leaves nothing",
          "[pool][process][limits][py:TestPoolNotLeakOnFailure.test_release_unused_processes]") {
    auto method = GENERATE(from_range(methods()));
    auto what = GENERATE("few-descriptors", "few-processes");
    test::ProgramResult result = test::run_program({what, name_of(method)});
    CAPTURE(name_of(method), what, result.output);
    CHECK(result.exited_with(0));
}

TEST_CASE("an application that ignores SIGCHLD, or takes every status, is told that much",
          "[pool][process]") {
    auto method = GENERATE(from_range(methods()));
    test::ProgramResult result = test::run_program({"ignored-sigchld", name_of(method)});
    CAPTURE(name_of(method), result.output);
    CHECK(result.exited_with(0));
    CHECK_THAT(result.output, Catch::Contains("taken by someone else"));
    result = test::run_program({"stolen-statuses", name_of(method)});
    CAPTURE(result.output);
    CHECK(result.exited_with(0));
}

TEST_CASE("a pool works with stdin closed, and with all of stdio closed",
          "[pool][process][py:TestStdinBadfiledescriptor.test_pool_in_process]") {
    auto method = GENERATE(from_range(methods()));
    test::ProgramResult result = test::run_program({"no-stdin", name_of(method)});
    CAPTURE(name_of(method), result.output, result.status);
    CHECK(result.exited_with(0));
    result = test::run_program({"no-stdio", name_of(method)});
    CAPTURE(result.status);
    CHECK(result.exited_with(0));
}

TEST_CASE("when the application is killed, its workers and fork server are gone",
          "[pool][process][orphans]") {
    auto method = GENERATE(from_range(methods()));
    bool stopped = GENERATE(false, true);
    test::Program program({"wait-for-death", name_of(method)});
    std::vector<pid_t> pids = pids_in(program.read_line());
    REQUIRE(pids.size() >= 4);
    if (stopped) kill(pids.back(), SIGSTOP);
    kill(program.pid(), SIGKILL);
    test::ProgramResult result = program.finish();  // reads to the end: nobody has the pipe
    CHECK(WIFSIGNALED(result.status));
    check_gone(pids);
}

TEST_CASE("a program that exits with a pool in use ends, and takes the workers along",
          "[pool][process][orphans][py:ExecutorShutdownTest.test_interpreter_shutdown]") {
    auto method = GENERATE(from_range(methods()));
    test::Program program({"exit-with-pool", name_of(method)});
    std::vector<pid_t> pids = pids_in(program.read_line());
    REQUIRE(pids.size() >= 2);
    test::ProgramResult result = program.finish();
    CAPTURE(result.output);
    CHECK(result.exited_with(5));
    check_gone(pids);
}

TEST_CASE("a static pool is closed at the end of the program", "[pool][process]") {
    auto method = GENERATE(from_range(methods()));
    test::ProgramResult result = test::run_program({"static-pool", name_of(method)});
    CAPTURE(result.output);
    CHECK(result.exited_with(0));
}

}  // namespace process_test
