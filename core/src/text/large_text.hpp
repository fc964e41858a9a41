// Strings that may become large.
#pragma once

#include <string>
#include <string_view>

namespace sidestep::inline v0 {

// text += bytes, in large steps and large pages once there is much: of the time of a large read,
// most goes into touching new pages, and into copying what is there.
void append_large(std::string& text, std::string_view bytes);

}  // namespace sidestep
