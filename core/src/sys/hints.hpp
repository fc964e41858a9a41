// What the kernel means by an error, where the error alone does not tell: for messages. Each of
// these is empty for an error that it knows nothing of.
#pragma once

#include <string>

namespace sidestep::inline v0::sys {

// Of a call that makes descriptors: " (...)", the limit that stands in the way.
std::string descriptor_hint(int error);
// Of sched_setaffinity(2), for behind the CPUs that were asked for.
std::string affinity_hint(int error);

}  // namespace sidestep::sys
