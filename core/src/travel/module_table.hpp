// Addresses of code and constants that mean the same in every process of one program, whatever
// address-space randomisation did: {which loaded module, offset in it}.
//
// How a module is known says module_id.hpp. Two that are alike in everything (one file that was
// copied and loaded from both paths) could be taken for each other: neither is located or resolved.
//
// Threads: thread-safe. Fork: the table is rebuilt from the running process when in doubt.
// Limits:  a library that tasks come from stays loaded: after dlclose() its addresses would still
//          be taken for its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace sidestep::inline v0 {

struct ModuleAddress {
    std::uint64_t module = 0;  // module_id(); never 0
    std::uint64_t offset = 0;  // from the module's load address

    friend bool operator==(const ModuleAddress&, const ModuleAddress&) = default;
};

// Throws std::invalid_argument if no loaded module holds the address (JIT code, a closed library),
// or if there are two modules like the one that does.
ModuleAddress locate(const void* address);

// Constants: what this process can read and not write. (They may lie beside code.)
enum class Contents { code, constants };
// The address in this process; null if the module is not loaded here, or has a double, or if `size`
// bytes at the offset are not within one of its segments of that kind.
const void* resolve(const ModuleAddress& where, Contents contents, std::size_t size);

// Why resolve() found nothing, and what to do; for the end of a message.
std::string why_unresolved(const ModuleAddress& where);

// If this process has several copies of this library, each linked into another program or library:
// a sentence that says so. A copy knows nothing of what was done with another one. Else empty.
std::string copies_of_this_library();

}  // namespace sidestep
