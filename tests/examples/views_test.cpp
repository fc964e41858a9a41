// The tour's programs that use views.
#include <catch2/catch.hpp>

#include "example.hpp"

namespace views_test {

TEST_CASE("the tour of map runs as it stands", "[examples][tour]") {
    auto done = test::run_example("example_01_map");
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "249500250000\n1 2 3\nx#1\ny#2\n3.0\n27\n");
    CHECK(done.std_err.empty());
}

TEST_CASE("the tour of streams counts words, shows each item's outcome, and sums",
          "[examples][tour]") {
    sidestep::subprocess::Options options;
    options.input = "to be or not\nto be that  is\n\n the question";
    auto done = test::run_example("example_03_streams", {}, options);
    CHECK(done.returncode == 0);
    CHECK(done.std_out == "10 words\n0:1 1:2 2:3 3:4 5:6 6:7 7:8 8:9 \n2 failed\n332833500\n");
}

}  // namespace views_test
