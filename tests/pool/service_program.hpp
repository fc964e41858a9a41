// The programs of service_test.cpp, a part of pool_program.
#pragma once

#include <optional>
#include <string>

#include <sidestep/pool.hpp>

namespace test {

// The exit code; nothing: there is no such program.
std::optional<int> run_exit_program(const std::string& what, sidestep::StartMethod method);
std::optional<int> run_shortage_program(const std::string& what, sidestep::StartMethod method);
std::optional<int> run_service_program(const std::string& what, sidestep::StartMethod method);

}  // namespace test
