#include <sidestep/version.hpp>

#include <string>

#include <catch2/catch.hpp>

namespace version_test {

TEST_CASE("the library and its headers tell one version", "[core][version]") {
    CHECK(std::string(sidestep::library_version()) == sidestep::kVersion);
    CHECK(std::string(sidestep::kVersion) == std::to_string(SIDESTEP_VERSION_MAJOR) + "." +
                                                 std::to_string(SIDESTEP_VERSION_MINOR) + "." +
                                                 std::to_string(SIDESTEP_VERSION_PATCH));
    CHECK(SIDESTEP_VERSION ==
          SIDESTEP_VERSION_MAJOR * 10000 + SIDESTEP_VERSION_MINOR * 100 + SIDESTEP_VERSION_PATCH);
}

}  // namespace version_test
