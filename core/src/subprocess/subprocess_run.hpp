// What run() and pipeline() share.
#pragma once

#include <sidestep/popen.hpp>
#include <sidestep/subprocess_options.hpp>
#include <sidestep/subprocess_result.hpp>

namespace sidestep::inline v0::subprocess {

// The Options of the Popen below a run(). Throws std::invalid_argument for contradictions.
Options for_popen(const Options& options);
// The result of a child that has ended.
CompletedProcess completed(const Popen& child, Output output);

}  // namespace sidestep::subprocess
