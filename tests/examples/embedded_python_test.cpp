#include <catch2/catch.hpp>

#include "example.hpp"

namespace embedded_python_test {

using Catch::Matchers::Matches;

TEST_CASE("embedded Python finds the same primes in one thread, in two and in worker processes",
          "[examples][embedded_python]") {
    auto done = test::run_example("embedded_python", {"20000"});
    CHECK(done.returncode == 0);
    const std::string result = " 2262 primes in [0-9.]+ seconds: [0-9.]+ x\n";
    CHECK_THAT(done.std_out, Matches("one thread *" + result + "two threads *" + result +
                                     "pool of two *" + result));
    CHECK(done.std_err.empty());
}

TEST_CASE("embedded Python takes nothing from the environment", "[examples][embedded_python]") {
    auto done = test::run_example(
        "embedded_python", {"5000"},
        {.env = sidestep::subprocess::Environment::extend(
             {{"PYTHONHOME", "/nowhere"}, {"PYTHONPATH", "/nowhere"}, {"PATH", "/nowhere"}})});
    CHECK(done.returncode == 0);
    CHECK_THAT(done.std_out, Matches("(.* 669 primes in .*\n){3}"));
}

}  // namespace embedded_python_test
