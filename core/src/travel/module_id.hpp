// What tells one program or library from another, the same in every process that has it loaded.
//
// A hash of its program headers and its build-id; without a build-id (ld --build-id=none), of all
// that its file loads: code, constants, and what variables begin with. The file is read, not the
// memory: a debugger's breakpoints are not in it. Where it cannot be read (it was deleted, there is
// no /proc), code and constants in memory stand for it.
//
// A program and two of its plugins may each have a copy of this library. A note in the ELF sense
// says in which modules there is one, whatever was stripped or hidden.
//
// Threads: thread-safe.
#pragma once

#include <link.h>

#include <cstdint>
#include <string>

namespace sidestep::inline v0 {

// Never 0. Reads the file of a module without a build-id: milliseconds.
std::uint64_t module_id(const dl_phdr_info& info);

// This library was linked into the module, by its note.
bool has_this_library(const dl_phdr_info& info);

// For messages: the path of its file, "the program" for the program.
std::string module_name(const dl_phdr_info& info);

}  // namespace sidestep
