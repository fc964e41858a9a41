#include <catch2/catch.hpp>

#include "example.hpp"

using Catch::Matchers::Contains;
using Catch::Matchers::Matches;

TEST_CASE("the tour of futures shows results, the error by type and the lost worker",
          "[examples][tour]") {
    auto done = test::run_example("example_02_futures");
    CHECK(done.returncode == 0);
    CHECK_THAT(
        done.std_out,
        Matches("6\ndomain_error: division by zero\nin worker: "
                "std::domain_error: division by zero\n(.|\n)*\n3\ntimed out\n4\ncancelled: 1\n"
                "[123]0 [123]0 [123]0 \n3 done, 0 pending\n"));
    CHECK_THAT(done.std_out, Contains("died of signal 11 (SIGSEGV"));
    CHECK_THAT(done.std_out, Contains("while it ran task 3 (crash(int))"));
    CHECK_THAT(done.std_out, Contains("(signal 11)"));
}

TEST_CASE("the tour of processes: a queue, an echo, and an exception that comes back by type",
          "[examples][tour]") {
    auto done = test::run_example("example_04_process");
    CHECK(done.returncode == 0);
    CHECK(done.std_out ==
          "200 items, exit codes 0 0\nhello!\n1 ready\nexit code 1\nchild failed\n");
    CHECK_THAT(done.std_err, Matches("Process Process-4 \\(pid [0-9]+\\) ended by an exception:\n"
                                     "std::runtime_error: child failed\n"));
}

TEST_CASE("a pipeline of three stages counts all lines", "[examples]") {
    auto done = test::run_example("example_pipeline");
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "200 lines, 580 digits\n");
    CHECK(done.std_err.empty());
}

TEST_CASE("the tour of actors: calls, a crash and a hang that cost nothing but themselves",
          "[examples][tour]") {
    auto done = test::run_example("example_08_actor");
    CHECK(done.returncode == 0);
    // (The order in which printf's arguments are evaluated is the compiler's.)
    CHECK_THAT(done.std_out,
               Matches("10 ada\n15\na deposit is positive\n115\n"
                       "the actor Account \\(process [0-9]+\\) died of signal 6 \\(SIGABRT\\) "
                       "in Account::crash\\(\\)\n7 1\n7 2\n"));
    CHECK(done.std_err.empty());
}

TEST_CASE("the tour of composition: futures that feed tasks, maps that end early, an event loop",
          "[examples][tour]") {
    auto done = test::run_example("example_12_composition");
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "2\n4\n9\n4\nthree\nin time\n1\n8\n42\n6\n");
    CHECK(done.std_err.empty());
}

TEST_CASE("the tour of managers runs as it stands", "[examples][tour]") {
    auto done = test::run_example("example_09_manager");
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "2 1 7\nbe 2\nnot 1\nor 1\nto 2\n500\n42\n4\n");
    CHECK(done.std_err.empty());
}

TEST_CASE("the tour of remote objects: what is not exposed and a wrong key are refused",
          "[examples][tour]") {
    auto done = test::run_example("example_10_remote");
    CHECK(done.returncode == 0);
    CHECK_THAT(done.std_out, Matches("100 results\n[^\n]*results[^\n]*not exposed[^\n]*\n"
                                     "[^\n]*listener at 127.0.0.1[^\n]*\n"));
    CHECK(done.std_err.empty());
}

TEST_CASE("the tour of shared memory runs as it stands", "[examples][tour]") {
    auto done = test::run_example("example_05_shared_memory");
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "2 3\n20000\n1048576\n42\n");
    CHECK(done.std_err.empty());
}

TEST_CASE("the tour of subprocess runs as it stands", "[examples][tour]") {
    auto done = test::run_example("example_06_subprocess");
    CHECK(done.returncode == 0);
    CHECK_THAT(done.std_out,
               Matches("0, [0-9]+ bytes\nHI\n9\n10\n.*sleep 60.* timed out after 0.1 seconds\n"
                       "exit status 3\n.*/no/such/program.*No such file or directory\n"
                       "BANANA\nAPPLE\n0 0\n-15\n"));
    CHECK(done.std_err.empty());
}

TEST_CASE("the tour of connections echoes, and turns a wrong key away on both sides",
          "[examples][tour]") {
    auto done = test::run_example("example_07_connection");
    CHECK(done.returncode == 0);
    // Which side is told first is the scheduler's choice.
    CHECK_THAT(done.std_out, Matches("abab\n(server|client): .*\n(server|client): .*\n"));
    CHECK_THAT(done.std_out, Contains("\nserver: the peer 127.0.0.1:") &&
                                 Contains("\nclient: the listener at 127.0.0.1:"));
    CHECK(done.std_err.empty());
}
