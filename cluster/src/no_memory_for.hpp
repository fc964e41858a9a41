// Want of memory, with what it was wanted for.
#pragma once

#include <fmt/format.h>

#include <new>
#include <utility>

namespace sidestep::inline v0::detail {

// To make one takes no memory but the exception's own. It arrives elsewhere as std::bad_alloc, with
// this text.
class NoMemoryFor final : public std::bad_alloc {
  public:
    template <class... Args>
    explicit NoMemoryFor(fmt::format_string<Args...> text, Args&&... args) {
        *fmt::format_to_n(text_, sizeof text_ - 1, text, std::forward<Args>(args)...).out = '\0';
    }
    const char* what() const noexcept override { return text_; }

  private:
    char text_[300];
};

}  // namespace sidestep::detail
