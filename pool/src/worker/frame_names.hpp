// The names of the functions that a worker was in when it crashed, or was asked.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace sidestep::inline v0::detail {

// What the task called, or an initializer, without what called that, and without the libraries' own
// functions; the innermost first. It takes milliseconds.
std::vector<std::string> name_frames(const std::vector<const void*>& addresses, std::size_t most);
// Begins each of these lines.
inline constexpr std::string_view kFrame = "\n    in ";
// As the end of a message: a line for each of the first, "\n    in crash(int)". Empty: there is
// none.
std::string stack_text(const std::vector<const void*>& addresses);

}  // namespace sidestep::detail
