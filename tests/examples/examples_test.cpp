#include <catch2/catch.hpp>

#include "example.hpp"

using Catch::Matchers::Contains;
using Catch::Matchers::Matches;

TEST_CASE("the tour of map runs as it stands", "[examples][tour]") {
    auto done = test::run_example("example_01_map");
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "249500250000\n1 2 3\nx#1\ny#2\n3.0\n27\n");
    CHECK(done.std_err.empty());
}

TEST_CASE("the tour of futures shows results, the error by type and the lost worker",
          "[examples][tour]") {
    auto done = test::run_example("example_02_futures");
    CHECK(done.returncode == 0);
    CHECK_THAT(done.std_out, Matches("6\ndomain_error: division by zero\nin worker: "
                                     "std::domain_error: division by zero\n(.|\n)*\n3\n"));
    CHECK_THAT(done.std_out, Contains("died of signal 11 (SIGSEGV"));
    CHECK_THAT(done.std_out, Contains("while it ran task 3 (crash(int))"));
    CHECK_THAT(done.std_out, Contains("(signal 11)"));
}
