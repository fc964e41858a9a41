#include "module_table.hpp"

#include <dlfcn.h>

#include <memory>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

using sidestep::Contents;
using sidestep::locate;
using sidestep::ModuleAddress;
using sidestep::resolve;

namespace {

int a_function(int x) { return x + 1; }
const int kConstants[4] = {1, 2, 3, 4};

const void* address_of(int (*function)(int)) { return reinterpret_cast<const void*>(function); }

// SIDESTEP_TEST_PLUGINS names the folder of the libraries (set by Meson).
void* load(const std::string& name) {
    return dlopen((std::string(SIDESTEP_TEST_PLUGINS "/") + name).c_str(), RTLD_NOW | RTLD_LOCAL);
}

}  // namespace

TEST_CASE("code and constants are found again by module and offset", "[core][module_table]") {
    ModuleAddress code = locate(address_of(&a_function));
    CHECK(code.module != 0);
    CHECK(resolve(code, Contents::code, 1) == address_of(&a_function));
    ModuleAddress constants = locate(kConstants);
    CHECK(constants.module == code.module);
    CHECK(constants.offset != code.offset);
    CHECK(resolve(constants, Contents::constants, sizeof kConstants) == kConstants);
    CHECK(locate(address_of(&a_function)) == code);
}

TEST_CASE("the C library is another module than the program", "[core][module_table]") {
    ModuleAddress own = locate(address_of(&a_function));
    const void* foreign = dlsym(RTLD_DEFAULT, "getpid");
    REQUIRE(foreign);
    ModuleAddress theirs = locate(foreign);
    CHECK(theirs.module != own.module);
    CHECK(resolve(theirs, Contents::code, 1) == foreign);
}

TEST_CASE("what lies in no module cannot be located", "[core][module_table]") {
    int on_stack = 0;
    auto on_heap = std::make_unique<int>(0);
    CHECK_THROWS_AS(locate(nullptr), std::invalid_argument);
    CHECK_THROWS_AS(locate(&on_stack), std::invalid_argument);
    CHECK_THROWS_WITH(locate(on_heap.get()), Catch::Contains("no loaded program or library"));
}

TEST_CASE("a foreign module is not resolved", "[core][module_table]") {
    ModuleAddress where = locate(address_of(&a_function));
    for (std::uint64_t module : {std::uint64_t(0), where.module + 1, ~where.module}) {
        CHECK(resolve({module, where.offset}, Contents::code, 1) == nullptr);
        CHECK(resolve({module, where.offset}, Contents::constants, 1) == nullptr);
    }
}

TEST_CASE("code is not taken for constants, nor constants for code", "[core][module_table]") {
    CHECK(resolve(locate(address_of(&a_function)), Contents::constants, 1) == nullptr);
    CHECK(resolve(locate(kConstants), Contents::code, 1) == nullptr);
}

TEST_CASE("an offset outside the module is not resolved", "[core][module_table]") {
    std::uint64_t module = locate(address_of(&a_function)).module;
    for (std::uint64_t offset : {std::uint64_t(1) << 40, std::uint64_t(1) << 63, ~std::uint64_t(0),
                                 ~std::uint64_t(0) - 4096}) {
        CHECK(resolve({module, offset}, Contents::code, 1) == nullptr);
        CHECK(resolve({module, offset}, Contents::constants, 1) == nullptr);
    }
}

TEST_CASE("a size that crosses the end of its segment is refused, to the byte",
          "[core][module_table]") {
    ModuleAddress where = locate(kConstants);
    REQUIRE(resolve(where, Contents::constants, 1));
    std::size_t fits = 1, too_large = std::size_t(1) << 40;  // find the border by halving
    while (too_large - fits > 1) {
        std::size_t middle = fits + (too_large - fits) / 2;
        (resolve(where, Contents::constants, middle) ? fits : too_large) = middle;
    }
    CHECK(fits >= sizeof kConstants);
    ModuleAddress last = {where.module, where.offset + fits - 1};
    CHECK(resolve(last, Contents::constants, 1));
    CHECK_FALSE(resolve(last, Contents::constants, 2));
    CHECK_FALSE(resolve(where, Contents::constants, ~std::size_t(0)));
}

TEST_CASE("a library loaded later is found, with a build-id and without", "[core][module_table]") {
    void* with_id = load("libplugin_with_id.so");
    void* without = load("libplugin_without_id.so");
    REQUIRE(with_id);
    REQUIRE(without);
    std::vector<ModuleAddress> places;
    for (void* library : {with_id, without}) {
        const void* code = dlsym(library, "plugin_function");
        REQUIRE(code);
        places.push_back(locate(code));
        CHECK(places.back().module != 0);
        CHECK(places.back() == locate(code));
        CHECK(resolve(places.back(), Contents::code, 1) == code);
    }
    CHECK(places[0].module != places[1].module);
    CHECK(places[0].module != locate(address_of(&a_function)).module);
    // They stay loaded: addresses that were located must not go away.
}
