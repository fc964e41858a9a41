// The options of a Pool, as its user gave them, and as the pool takes them.
#pragma once

#include <sidestep/pool_options.hpp>

namespace sidestep::inline v0::detail {

// What they leave to the environment and to the machine is filled in; this host's share of them.
// Throws std::invalid_argument for those that make no sense.
PoolOptions checked(PoolOptions options);
// What SIDESTEP_PROCESSES says; nothing: it is not set, or empty. Throws std::invalid_argument.
std::optional<unsigned> processes_of_environment();
// Throws std::invalid_argument that says "PoolOptions::" and this.
[[noreturn]] void refuse_option(const std::string& what);

}  // namespace sidestep::detail
