// The resources of setrlimit(2), by our names and by the kernel's.
#pragma once

#include <sys/resource.h>

#include <cstdint>
#include <string>
#include <string_view>

#include <sidestep/subprocess_options.hpp>

namespace sidestep::inline v0::spawn {

struct KnownResource {
    subprocess::Resource resource;
    decltype(RLIMIT_AS) number;
    const char* name;
};
// Null: there is none.
const KnownResource* find_resource(subprocess::Resource resource);

// A hard limit in a message.
std::string limit_text(std::uint64_t limit);
// What this process may not exceed, and such a hard limit does; empty: nothing, as far as it is
// known. `whose`: who this process is in the message.
std::string exceeded(const KnownResource& resource, std::uint64_t hard, std::string_view whose);

}  // namespace sidestep::spawn
