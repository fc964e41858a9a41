// A program whose main() calls init() first.
#include <sidestep/init.hpp>

#include "start_methods.hpp"

// For AddressSanitizer: nobody may trace a program with privileges, and its environment tells it
// nothing; what looks for leaks would end it with an error.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }

int main(int argc, char** argv) {
    sidestep::init();
    return show_start_methods(argc - 1, argv + 1);
}
