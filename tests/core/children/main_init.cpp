// A program whose main() calls init() first.
#include <sidestep/init.hpp>

#include "start_methods.hpp"

int main(int argc, char** argv) {
    sidestep::init();
    return show_start_methods(argc - 1, argv + 1);
}
