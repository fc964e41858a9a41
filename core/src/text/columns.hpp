// How much room a text takes on a terminal.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace sidestep::inline v0 {

// The columns of a UTF-8 text without control characters: two for those of East Asia and emoji,
// none for what is put onto the character before. (The C library knows that only in the program's
// locale, which may be none.)
std::size_t columns_of(std::string_view text);
// Its begin that fits.
void cut_to_columns(std::string& text, std::size_t columns);
// With a blank for each control character, so that it is one line and moves no cursor.
std::string printable(std::string text);

}  // namespace sidestep
