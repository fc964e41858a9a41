#include "sys/hints.hpp"

#include <cerrno>

#include "sys/sys.hpp"

namespace sidestep::inline v0::sys {

std::string descriptor_hint(int error) {
    if (error == EMFILE) return " (limit on descriptors: ulimit -n)";
    // pipe(2) says the same of both.
    if (error == ENFILE)
        return " (limits of the system: on descriptors, fs.file-max; on a user's pipes, "
               "fs.pipe-user-pages-hard)";
    return {};
}

std::string affinity_hint(int error) {
    if (error == EINVAL) return ": there is none of them, or none that the cgroup's cpuset allows";
    return refusal_hint(error);
}

}  // namespace sidestep::sys
