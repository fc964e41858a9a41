// Running the program that shows what only a whole program can.
#pragma once

#include <string>
#include <vector>

#include <sidestep/subprocess.hpp>

namespace test {

inline sidestep::subprocess::CompletedProcess run_process_program(
    std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), SIDESTEP_TEST_PROGRAM);
    return sidestep::subprocess::run(arguments,
                                     {.capture_output = true, .timeout = std::chrono::minutes(2)});
}

}  // namespace test
