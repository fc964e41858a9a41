// EINTR is handled here, for the wrappers of sys.hpp: a call that a signal interrupted is made
// again.
#pragma once

#include <cerrno>

namespace sidestep::inline v0::sys {

template <class Call>
auto retry(Call call) {
    decltype(call()) result;
    do result = call();
    while (result < 0 && errno == EINTR);
    return result;
}

}  // namespace sidestep::sys
