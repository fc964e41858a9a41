// DamagedError: what handles of objects in shared memory throw when the object makes no sense.
#pragma once

#include <stdexcept>

namespace sidestep::inline v0 {

// What lies in shared memory is not what any call could have made of it: a process that shares the
// object (or another small one, which lie side by side) wrote over it. The object is lost: make a
// new one. To find who did it, run those processes under AddressSanitizer or valgrind.
class DamagedError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

}  // namespace sidestep
