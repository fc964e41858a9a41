// The settings of start_method.hpp, and how children inherit them.
//
// Threads: thread-safe.
#pragma once

#include <string>

#include <sidestep/start_method.hpp>

namespace sidestep::inline v0 {

// The program to spawn; empty: this one.
std::string executable();
using PreloadHook = void (*)();
PreloadHook preload_hook();

// In a child that was started by `method`.
void inherit_start_defaults(StartMethod method, const std::string& executable, PreloadHook preload);

}  // namespace sidestep
