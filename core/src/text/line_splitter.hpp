// Cuts a stream of pieces into lines, and decodes it before if it is text in an encoding.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <sidestep/detail/deadline.hpp>

#include "text/text_codec.hpp"

namespace sidestep::inline v0::subprocess {

using LineCallback = std::function<void(std::string_view)>;

class LineSplitter {
  public:
    LineSplitter(LineCallback callback, const TextMode& text) : callback_(std::move(callback)) {
        if (text.on) decoder_.emplace(text);
    }

    // Stops between two lines when the deadline has come.
    void feed(std::string_view bytes, const detail::Deadline& deadline);
    void finish();
    // What was read, and was no line yet.
    std::string take_rest() { return std::exchange(rest_, {}); }

  private:
    void feed_end();

    LineCallback callback_;
    std::optional<TextDecoder> decoder_;
    std::string rest_;
};

}  // namespace sidestep::subprocess
