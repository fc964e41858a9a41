// A library that is loaded into somebody else's program, as a Python extension is.
#include <sidestep/init.hpp>

#include "start_methods.hpp"

extern "C" __attribute__((visibility("default"))) int run_extension(int count, char** names) {
    sidestep::init();
    return show_start_methods(count, names);
}
