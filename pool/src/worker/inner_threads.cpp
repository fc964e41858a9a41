#include "worker/inner_threads.hpp"

#include <cstdlib>

namespace sidestep::inline v0 {
namespace {

constexpr const char* kVariables[] = {
    kOpenMpThreads,     "OPENBLAS_NUM_THREADS",   "GOTO_NUM_THREADS",    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS"};

}  // namespace

std::vector<std::pair<std::string, std::string>> inner_thread_variables(unsigned threads) {
    std::vector<std::pair<std::string, std::string>> added;
    if (threads == 0 || std::getenv(kOpenMpThreads)) return added;
    for (const char* name : kVariables)
        if (!std::getenv(name)) added.emplace_back(name, std::to_string(threads));
    return added;
}

void set_inner_threads(unsigned threads) {
    for (const auto& [name, value] : inner_thread_variables(threads))
        ::setenv(name.c_str(), value.c_str(), 0);
}

}  // namespace sidestep
