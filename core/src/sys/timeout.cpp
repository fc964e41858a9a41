#include <sidestep/timeout.hpp>

#include <stdexcept>

namespace sidestep::inline v0::detail {

void throw_time_is_nan() {
    throw std::invalid_argument(
        "a timeout is not a number (NaN): look at how it was computed; for no limit give "
        "Timeout::forever()");
}

}  // namespace sidestep::detail
