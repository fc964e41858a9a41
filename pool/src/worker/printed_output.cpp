#include <sidestep/detail/printed_output.hpp>

#include "sys/printed.hpp"

namespace sidestep::inline v0::detail {

bool flush_printed() noexcept { return sys::write_printed(); }

}  // namespace sidestep::detail
