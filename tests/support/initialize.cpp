#include <sidestep/init.hpp>

#include "support.hpp"

namespace test {

void initialize() { sidestep::init(); }

}  // namespace test
