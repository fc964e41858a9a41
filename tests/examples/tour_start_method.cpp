// Linked to a tour, which names no start method: the environment does.
#include <sidestep/start_method.hpp>

#include <cstdlib>

namespace {
[[maybe_unused]] const bool set = [] {
    if (const char* name = std::getenv("TOUR_START_METHOD"))
        sidestep::set_start_method(sidestep::start_method_named(name));
    return true;
}();
}  // namespace
