// The resources of setrlimit(2), by our names and by the kernel's.
#pragma once

#include <sys/resource.h>

#include <sidestep/subprocess_options.hpp>

namespace sidestep::inline v0::spawn {

struct KnownResource {
    subprocess::Resource resource;
    decltype(RLIMIT_AS) number;
    const char* name;
};
// Null: there is none.
const KnownResource* find_resource(subprocess::Resource resource);

}  // namespace sidestep::spawn
