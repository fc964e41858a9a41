// Running the examples as their users do.
#pragma once

#include <sidestep/subprocess.hpp>

#include <cstdlib>
#include <string>
#include <vector>

namespace test {

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
