// How many threads the libraries that a task calls may start: told by the environment variables
// that they read (OpenMP, OpenBLAS, MKL, BLIS...).
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace sidestep::inline v0 {

inline constexpr const char* kOpenMpThreads = "OMP_NUM_THREADS";

// What is to be added to the environment of this process, or of one that it starts, so that each
// library takes so many threads; 0: nothing. What is set already stays. With OMP_NUM_THREADS set
// there is nothing to add: the other libraries follow it.
std::vector<std::pair<std::string, std::string>> inner_thread_variables(unsigned threads);

// Adds them to the environment of this process. Requires: it has one thread.
void set_inner_threads(unsigned threads);

}  // namespace sidestep
