// Tasks of libraries that are loaded by dlopen(): whose code runs, and what is said if none can.
#include <stdlib.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include <sidestep/subprocess.hpp>

#include "policy_support.hpp"

namespace plugin_test {

using Catch::Contains;
using sidestep::StartMethod;
using test::methods;

namespace {

// SIDESTEP_TEST_PLUGINS names the folder of the program and its libraries (set by Meson).
std::string path_of(const std::string& name) {
    return std::string(SIDESTEP_TEST_PLUGINS "/libtask_plugin_") + name + ".so";
}

// A file under another path, as long as this lives.
struct Copy {
    explicit Copy(const std::string& file)
        : folder(std::filesystem::temp_directory_path() / "sidestep-copy-XXXXXX") {
        if (!::mkdtemp(folder.data())) throw std::runtime_error("mkdtemp " + folder);
        path = folder + "/copy.so";
        std::filesystem::copy_file(file, path);
    }
    ~Copy() { std::filesystem::remove_all(folder); }
    Copy(const Copy&) = delete;
    Copy& operator=(const Copy&) = delete;

    std::string folder, path;
};

// The program's output.
std::string with_libraries(StartMethod method, const std::string& mode,
                           const std::vector<std::string>& paths) {
    std::vector<std::string> args = {SIDESTEP_TEST_PLUGINS "/plugin_program", test::name_of(method),
                                     mode};
    args.insert(args.end(), paths.begin(), paths.end());
    std::string before;
    for (const std::string& path : paths) before += path + "\n";
    sidestep::subprocess::Options options = {.capture_output = true, .timeout = test::kPatience};
    if (mode == "before")
        options.env = sidestep::subprocess::Environment::extend({{"PLUGINS_BEFORE", before}});
    auto done = sidestep::subprocess::run(args, options);
    CHECK(done.returncode == 0);
    return done.std_out;
}

}  // namespace

TEST_CASE("tasks of two libraries without build-id that differ in data only are told apart",
          "[pool][plugin]") {
    auto method = GENERATE(from_range(methods()));
    CHECK(with_libraries(method, "before", {path_of("thousand"), path_of("seven_thousand")}) ==
          "1005\n1006\n7005\n7006\n");
}

TEST_CASE("a library's task runs in a worker that has not loaded another one with such a task",
          "[pool][plugin]") {
    auto method = GENERATE(from_range(methods()));
    CHECK(with_libraries(method, "worker-loads",
                         {path_of("thousand"), path_of("seven_thousand")}) == "7005\n7006\n");
}

TEST_CASE("a task of a library that the worker has not loaded is refused, and it says why",
          "[pool][plugin]") {
    auto method = GENERATE(from_range(methods()));
    CHECK_THAT(with_libraries(method, "after", {path_of("thousand")}),
               Contains("is not loaded in this process") && Contains("in a pool's initializer"));
}

TEST_CASE("tasks of one library that is loaded from two paths are refused, with both paths",
          "[pool][plugin]") {
    auto method = GENERATE(from_range(methods()));
    std::string name = GENERATE("thousand", "with_id");
    Copy copy(path_of(name));
    CHECK_THAT(with_libraries(method, "before", {path_of(name), copy.path}),
               Contains(path_of(name) + " and " + copy.path) &&
                   Contains(" are loaded here and are copies of one library"));
}

#if SIDESTEP_TEST_OWN_COPY
TEST_CASE("a pool of a library that has a copy of Sidestep in it is refused, and it says why",
          "[pool][plugin]") {
    auto method = GENERATE(from_range(methods()));
    std::string said = with_libraries(method, "own-pool", {path_of("with_own_copy")});
    // A forked worker has everything of its parent's, init() or no.
    if (method == StartMethod::fork)
        CHECK(said == "1005\n");
    else
        CHECK_THAT(said, Contains("init() was not called in this copy of Sidestep") &&
                             Contains("2 copies") && Contains("in the program and in ") &&
                             Contains(path_of("with_own_copy")));
}
#endif

TEST_CASE(
    "a library that takes Sidestep from the program can make a pool: the program's init() "
    "is its own",
    "[pool][plugin]") {
    auto method = GENERATE(from_range(methods()));
    std::string said = with_libraries(method, "own-pool", {path_of("thousand")});
    if (method == StartMethod::fork)
        CHECK(said == "1005\n");
    else  // its worker is started, and has not loaded the library
        CHECK_THAT(said, Contains("the code of the task is not in this process") &&
                             Contains("is not loaded in this process"));
}

}  // namespace plugin_test
