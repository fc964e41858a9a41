#include <sidestep/version.hpp>

namespace sidestep::inline v0 {

const char* library_version() { return kVersion; }

}  // namespace sidestep
