// The tests' own main: takes over in spawned workers first, then runs Catch2.
#define CATCH_CONFIG_RUNNER
#define CATCH_CONFIG_CONSOLE_WIDTH 200  // tools/parity reads its lists: no tag is broken
#define CATCH_CONFIG_NO_POSIX_SIGNALS   // forked workers would inherit its handlers
#include <catch2/catch.hpp>

#include "support.hpp"

int main(int argc, char** argv) {
    test::initialize();
    test::PrivateTemporary temporary;
    int failures = Catch::Session().run(argc, argv);
    return failures != 0 || test::leaks_found() != 0 ? 1 : 0;
}
