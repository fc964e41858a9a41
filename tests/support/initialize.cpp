#include "support.hpp"

namespace test {

void initialize() {}

}  // namespace test
