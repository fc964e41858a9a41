// The pool's own threads: exit(3) in one of them, workers that cannot be signalled, shortages that
// pass, the terminal.
#include <signal.h>
#include <unistd.h>

#include <sstream>
#include <string>
#include <vector>

#include "policy_support.hpp"

namespace service_test {

namespace mp = sidestep;
using test::get;
using test::methods;
using namespace std::chrono_literals;

namespace {

void check_program(const std::string& what, mp::StartMethod method) {
    CAPTURE(what);
    test::ProgramResult result = test::run_program({what, test::name_of(method)});
    CAPTURE(result.output);
    CHECK(result.exited_with(0));
    if (result.output.find("skipped") != std::string::npos) WARN(result.output);
}

}  // namespace

TEST_CASE("a thread of a pool that calls exit() is not waited for, and no worker is left",
          "[pool][exit]") {
    auto method = GENERATE(from_range(methods()));
    auto what = GENERATE("exit-in-callback", "quick-exit-in-callback", "exit-in-when",
                         "exit-in-map", "exit-after-end", "exit-while-joined", "exit-in-own-map");
    CAPTURE(what);
    test::Program program({what, test::name_of(method)});
    std::istringstream workers(program.read_line());
    test::ProgramResult result = program.finish();
    CAPTURE(result.output);
    CHECK(result.exited_with(3));
    int count = 0;
    for (int pid; workers >> pid; ++count)
        CHECK(test::eventually([&] { return !test::process_exists(pid); }));
    CHECK(count == 2);
}

TEST_CASE("a thread of a ThreadPool, or in a pool without workers, or of a Listener may exit()",
          "[pool][thread_pool][exit]") {
    auto what = GENERATE("exit-in-thread", "exit-in-thread-callback", "exit-in-timer",
                         "exit-in-thread-map", "exit-in-thread-own-map", "exit-in-thread-after-end",
                         "exit-in-inline-task", "exit-in-inline-map", "exit-in-listener");
    CAPTURE(what);
    test::ProgramResult result = test::run_program({what});
    CAPTURE(result.output);
    CHECK(result.exited_with(3));
}

TEST_CASE("workers that this process may not signal any more are ended by their lifelines",
          "[pool][privileges]") {
    auto method = GENERATE(from_range(methods()));
    check_program("dropped-privileges", method);
    check_program("terminate-without-privileges", method);
}

TEST_CASE("a pool with a worker that nothing can end is broken, and says so",
          "[pool][privileges]") {
    auto method = GENERATE(from_range(methods()));
    test::ProgramResult result = test::run_program({"unending-worker", test::name_of(method)});
    CAPTURE(result.output);
    CHECK(result.exited_with(0));
    if (geteuid() == 0) CHECK_THAT(result.output, Catch::Contains("cannot be signalled"));
}

TEST_CASE("what is used up for a while breaks no pool: its tasks wait", "[pool][shortage]") {
    auto method = GENERATE(from_range(methods()));
    auto what = GENERATE("shortage-of-descriptors", "shortage-of-processes", "idle-shortage",
                         "growing-shortage");
    check_program(what, method);
}

#ifndef TEST_SANITIZED
TEST_CASE("address space that is used up for a while breaks no pool", "[pool][shortage]") {
    auto method = GENERATE(from_range(methods()));
    check_program("shortage-of-memory", method);
}
#endif

TEST_CASE("a shortage that lasts breaks the pool after start_patience, which says what is short",
          "[pool][shortage]") {
    auto method = GENERATE(from_range(methods()));
    test::ProgramResult result = test::run_program({"lasting-shortage", test::name_of(method)});
    CAPTURE(result.output);
    CHECK(result.exited_with(0));
    CHECK_THAT(result.output, Catch::Contains("no worker could be started") &&
                                  Catch::Contains("start_patience") &&
                                  Catch::Contains("no descriptors left"));
}

TEST_CASE("a supervisor that the kernel tells of no events looks by itself", "[pool][shortage]") {
    auto method = GENERATE(from_range(methods()));
    check_program("without-events", method);
}

TEST_CASE("a supervisor that fails for longer than start_patience breaks the pool, with the cause",
          "[pool][shortage]") {
    auto method = GENERATE(from_range(methods()));
    test::ProgramResult result =
        test::run_program({"without-events-for-good", test::name_of(method)});
    CAPTURE(result.output);
    CHECK(result.exited_with(0));
    if (result.output.find("skipped") == std::string::npos)
        CHECK_THAT(result.output, Catch::Contains("epoll_wait") && Catch::Contains("memory"));
}

TEST_CASE("a negative start_patience is refused", "[pool][shortage]") {
    CHECK_THROWS_AS(mp::Pool({.processes = 1, .start_patience = -1ns}), std::invalid_argument);
}

TEST_CASE("a task that uses the terminal does not stop its worker", "[pool][terminal]") {
    auto method = GENERATE(from_range(methods()));
    check_program("terminal", method);
}

TEST_CASE("a worker that is stopped is shown in stats, until it goes on", "[pool][stats]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    CHECK(get(pool.submit(test::add, 1, 2)) == 3);
    CHECK_FALSE(pool.stats().workers[0].stopped);
    int pid = pool.stats().workers[0].pid;
    kill(pid, SIGSTOP);
    CHECK(test::eventually([&] { return pool.stats().workers[0].stopped; }));
    CHECK_FALSE(pool.stats().workers[1].stopped);
    CHECK_THAT(pool.stats().describe(),
               Catch::Contains("worker 0 is stopped") && Catch::Contains(std::to_string(pid)));
    kill(pid, SIGCONT);
    CHECK(test::eventually([&] { return !pool.stats().workers[0].stopped; }));
}

}  // namespace service_test
