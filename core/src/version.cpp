#include <sidestep/version.hpp>

namespace sidestep {

const char* library_version() { return kVersion; }

}  // namespace sidestep
