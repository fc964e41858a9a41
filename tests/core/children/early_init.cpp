// A program without a main() of its own, as its author thinks: a global object calls init().
#include <sidestep/init.hpp>

#include "start_methods.hpp"

namespace {

struct Early {
    Early() { sidestep::init(); }
};
const Early early;

}  // namespace

int main(int argc, char** argv) { return show_start_methods(argc - 1, argv + 1); }
