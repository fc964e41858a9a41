// Running the examples as their users do.
#pragma once

#include <sidestep/subprocess.hpp>

#include <stdlib.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

namespace test {

// A folder of its own that goes with the test.
struct TemporaryFolder {
    TemporaryFolder() {
        std::string pattern =
            (std::filesystem::temp_directory_path() / "sidestep-example-XXXXXX").string();
        if (!mkdtemp(pattern.data()))
            throw std::system_error(errno, std::generic_category(), pattern);
        path = pattern;
    }
    ~TemporaryFolder() { std::filesystem::remove_all(path); }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    std::filesystem::path path;
};

inline std::string example_path(const std::string& name) {
    const char* folder = std::getenv("SIDESTEP_EXAMPLES");
    return std::string(folder ? folder : "examples") + "/" + name;
}

inline sidestep::subprocess::CompletedProcess run_example(
    const std::string& name, std::vector<std::string> arguments = {},
    sidestep::subprocess::Options options = {}) {
    arguments.insert(arguments.begin(), example_path(name));
    options.capture_output = true;
    options.timeout = std::chrono::minutes(2);
    return sidestep::subprocess::run(arguments, options);
}

}  // namespace test
