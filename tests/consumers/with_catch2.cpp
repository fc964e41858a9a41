// A test program of Catch2 whose tests use pools: a main() of its own, since workers take over in
// init().
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#include <vector>

#include <sidestep/pool.hpp>

static int twice(int n) { return 2 * n; }

TEST_CASE("a pool maps in workers of a test program") {
    sidestep::Pool pool({.processes = 2});
    CHECK(pool.map(twice, std::vector<int>{1, 2, 3}) == std::vector<int>{2, 4, 6});
}

int main(int argc, char** argv) {
    sidestep::init();
    return Catch::Session().run(argc, argv);
}
