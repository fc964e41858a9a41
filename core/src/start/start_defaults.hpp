// The settings of start_method.hpp, and how children inherit them.
//
// Threads: thread-safe.
#pragma once

#include <string>

#include <sidestep/start_method.hpp>

#include "travel/module_table.hpp"

namespace sidestep::inline v0 {

// The program to spawn; empty: this one.
std::string executable();
// Where the fork server finds what it is to run first; module 0: nothing. It is looked up there
// alone: a process that passes it on may lack the library.
ModuleAddress preload_hook();

// In a child that was started by `method`.
void inherit_start_defaults(StartMethod method, const std::string& executable,
                            const ModuleAddress& preload);

}  // namespace sidestep
