#include "travel/module_table.hpp"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include "travel/module_id.hpp"

namespace module_table_test {

using sidestep::Contents;
using sidestep::locate;
using sidestep::ModuleAddress;
using sidestep::resolve;

namespace {

int a_function(int x) { return x + 1; }
const int kConstants[4] = {1, 2, 3, 4};

const void* address_of(int (*function)(int)) { return reinterpret_cast<const void*>(function); }

namespace fs = std::filesystem;

// SIDESTEP_TEST_PLUGINS names the folder of the libraries (set by Meson).
std::string path_of(const std::string& name) {
    return std::string(SIDESTEP_TEST_PLUGINS "/libplugin_") + name + ".so";
}

// A library, by its name or by a path. It stays loaded, since what was located must not go away.
class Plugin {
  public:
    explicit Plugin(const std::string& name)
        : library_(dlopen((name.find('/') == std::string::npos ? path_of(name) : name).c_str(),
                          RTLD_NOW | RTLD_LOCAL)) {
        if (!library_) throw std::runtime_error(dlerror());
    }
    const void* at(const char* symbol) const { return dlsym(library_, symbol); }
    void close() { dlclose(library_); }

  private:
    void* library_;
};

// The library's file under another path, as long as this lives.
struct Copy {
    explicit Copy(const std::string& name) {
        std::string pattern = (fs::temp_directory_path() / "sidestep-copy-XXXXXX").string();
        folder = mkdtemp(pattern.data());
        path = folder + "/copy.so";
        fs::copy_file(path_of(name), path);
    }
    ~Copy() { fs::remove_all(folder); }
    Copy(const Copy&) = delete;
    Copy& operator=(const Copy&) = delete;

    std::string folder, path;
};

// As it is now, not as the table remembers it.
std::uint64_t id_of(const Plugin& plugin) {
    Dl_info where = {};
    if (dladdr(plugin.at("plugin_function"), &where) == 0) throw std::logic_error("dladdr");
    struct Search {
        std::uintptr_t base;
        std::uint64_t id = 0;
    } search = {reinterpret_cast<std::uintptr_t>(where.dli_fbase)};
    auto look = [](dl_phdr_info* info, std::size_t, void* data) {
        auto& wanted = *static_cast<Search*>(data);
        if (info->dlpi_addr == wanted.base) wanted.id = sidestep::module_id(*info);
        return 0;
    };
    dl_iterate_phdr(look, &search);
    return search.id;
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
    static int variable = 1;
    CHECK(resolve(locate(kConstants), Contents::code, 1) == nullptr);
    CHECK(resolve(locate(&variable), Contents::code, 1) == nullptr);
    CHECK(resolve(locate(&variable), Contents::constants, 1) == nullptr);
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
    std::set<std::uint64_t> modules = {locate(address_of(&a_function)).module};
    for (const char* name : {"with_id", "without_id"}) {
        Plugin plugin(name);
        ModuleAddress place = locate(plugin.at("plugin_function"));
        CHECK(place.module != 0);
        CHECK(place == locate(plugin.at("plugin_function")));
        CHECK(resolve(place, Contents::code, 1) == plugin.at("plugin_function"));
        CHECK(modules.insert(place.module).second);
    }
}

TEST_CASE("constants are found wherever the linker puts them", "[core][module_table]") {
    std::string name = GENERATE("with_id", "beside_code", "without_relro");
    CAPTURE(name);
    Plugin plugin(name);
    for (const char* symbol : {"plugin_constants", "plugin_pointers"}) {
        CAPTURE(symbol);
        const void* constants = plugin.at(symbol);
        CHECK(resolve(locate(constants), Contents::constants, 2 * sizeof(int)) == constants);
    }
    const void* variables = plugin.at("plugin_variables");
    // Without RELRO, constants with addresses in them are variables to the loader.
    bool taken = resolve(locate(variables), Contents::constants, 1) != nullptr;
    CHECK(taken == (name == "without_relro"));
    CHECK(resolve(locate(variables), Contents::code, 1) == nullptr);
}

TEST_CASE("libraries without build-id are told apart by code, constants and initial values",
          "[core][module_table]") {
    std::set<std::uint64_t> modules;
    for (const char* name : {"without_id", "without_id_twin", "without_id_other_values"}) {
        const void* code = Plugin(name).at("plugin_function");
        CHECK(modules.insert(locate(code).module).second);
        CHECK(resolve(locate(code), Contents::code, 1) == code);
    }
}

TEST_CASE("a breakpoint does not make another library of one without build-id",
          "[core][module_table]") {
    Plugin plugin("without_id");
    auto* code = static_cast<unsigned char*>(const_cast<void*>(plugin.at("plugin_function")));
    std::uint64_t before = id_of(plugin);
    auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    auto* begin = code - reinterpret_cast<std::uintptr_t>(code) % page;
    REQUIRE(mprotect(begin, page, PROT_READ | PROT_WRITE) == 0);
    unsigned char kept = std::exchange(*code, static_cast<unsigned char>(~*code));
    std::uint64_t with_breakpoint = id_of(plugin);
    *code = kept;
    REQUIRE(mprotect(begin, page, PROT_READ | PROT_EXEC) == 0);
    CHECK(with_breakpoint == before);
}

TEST_CASE("libraries without build-id whose file is gone are told apart by what is in memory",
          "[core][module_table]") {
    std::optional<Plugin> plugin;
    {
        Copy copy("without_id");
        plugin.emplace(copy.path);
    }
    std::uint64_t id = id_of(*plugin);
    CHECK(id == id_of(*plugin));
    Copy other("without_id_twin");
    Plugin twin(other.path);
    CHECK(id != id_of(twin));
    {
        Copy replaced("with_id");  // another file lies there now
        fs::rename(replaced.path, other.path);
    }
    CHECK(id != id_of(twin));
}

TEST_CASE(
    "libraries that were given one build-id by hand are told apart if their layout differs, "
    "else refused",
    "[core][module_table]") {
    Plugin one("given_id"), larger("given_id_larger");
    ModuleAddress place = locate(one.at("plugin_function"));
    CHECK(place.module != locate(larger.at("plugin_function")).module);
    Plugin twin("given_id_twin");
    CHECK_THROWS_WITH(locate(twin.at("plugin_function")),
                      Catch::Contains("libplugin_given_id.so and ") &&
                          Catch::Contains("libplugin_given_id_twin.so are loaded here and are "
                                          "copies of one library") &&
                          Catch::Contains("load one of them only"));
}

TEST_CASE("one file that is loaded from two paths is refused, until one of them is closed",
          "[core][module_table]") {
    std::string name = GENERATE("copied", "copied_without_id");
    Copy copy(name);
    Plugin plugin(name), second(copy.path);
    for (const Plugin* either : {&plugin, &second})
        CHECK_THROWS_AS(locate(either->at("plugin_function")), std::invalid_argument);
    second.close();
    const void* code = plugin.at("plugin_function");
    ModuleAddress place = locate(code);
    CHECK(resolve(place, Contents::code, 1) == code);
    CHECK_THAT(sidestep::why_unresolved({place.module, std::uint64_t(1) << 40}),
               Catch::Contains("libplugin_" + name + ".so is loaded, but has nothing"));
}

TEST_CASE("a library whose double was loaded meanwhile is not resolved", "[core][module_table]") {
    Plugin plugin("doubled");
    ModuleAddress place = locate(plugin.at("plugin_function"));
    Copy copy("doubled");
    Plugin second(copy.path), newest("newest");
    locate(newest.at("plugin_function"));  // what is loaded is looked at again
    CHECK(resolve(place, Contents::code, 1) == nullptr);
    CHECK_THAT(sidestep::why_unresolved(place),
               Catch::Contains(copy.path) && Catch::Contains("copies of one library"));
}

TEST_CASE("what is not loaded here is said to be that", "[core][module_table]") {
    CHECK_THAT(sidestep::why_unresolved({0x1234, 0}), Catch::Contains("module 0000000000001234") &&
                                                          Catch::Contains("is not loaded") &&
                                                          Catch::Contains("before init()"));
}

TEST_CASE("one copy of the library is no reason for a warning", "[core][module_table]") {
    CHECK(sidestep::copies_of_this_library().empty());
}

}  // namespace module_table_test
