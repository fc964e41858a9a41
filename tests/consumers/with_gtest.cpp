// A test program of GoogleTest whose tests use pools: a main() of its own, three lines, in place of
// gtest_main's, since workers take over in init().
#include <gtest/gtest.h>

#include <vector>

#include <sidestep/pool.hpp>

static int twice(int n) { return 2 * n; }

TEST(Pool, MapsInWorkersOfATestProgram) {
    sidestep::Pool pool({.processes = 2});
    EXPECT_EQ(pool.map(twice, std::vector<int>{1, 2, 3}), (std::vector<int>{2, 4, 6}));
}

int main(int argc, char** argv) {
    sidestep::init();
    testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
}
