#include "sys/error.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <system_error>

namespace sidestep::inline v0 {

void throw_errno(int error, std::string_view what) {
    throw std::system_error(error, std::generic_category(), std::string(what));
}

std::string text_of(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const std::exception& e) {
        return e.what();
    } catch (...) {
        return "something that is no std::exception";
    }
}

void assertion_failed(const char* condition, const char* file, int line) noexcept {
    std::fprintf(stderr, "sidestep: broken invariant: %s (%s:%d). This is a bug in Sidestep.\n",
                 condition, file, line);
    std::abort();
}

}  // namespace sidestep
