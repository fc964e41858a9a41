// Addresses of code and constants that mean the same in every process of one program, whatever
// address-space randomisation did: {which loaded module, offset in it}.
//
// A module is known by its build-id; one without (ld --build-id=none), by a hash of its code.
//
// Threads: thread-safe. Fork: the table is rebuilt from the running process when in doubt.
// Limits:  a library that tasks come from stays loaded: after dlclose() its addresses would still
//          be taken for its own.
#pragma once

#include <cstdint>

namespace sidestep {

struct ModuleAddress {
    std::uint64_t module = 0;  // first 8 bytes of the build-id, or a hash of the code; never 0
    std::uint64_t offset = 0;  // from the module's load address

    friend bool operator==(const ModuleAddress&, const ModuleAddress&) = default;
};

// Throws std::invalid_argument if no loaded module holds the address (JIT code, a closed library).
ModuleAddress locate(const void* address);

enum class Contents { code, constants };
// The address in this process; null if the module is not loaded here, or if `size` bytes at the
// offset are not within one of its segments of that kind.
const void* resolve(const ModuleAddress& where, Contents contents, std::size_t size);

}  // namespace sidestep
