// Text mode: bytes in some encoding to UTF-8 with "\n" and back, piece by piece, on iconv(3).
//
// Threads: single-owner.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <sidestep/subprocess_options.hpp>

namespace sidestep::inline v0::subprocess {

// What Options say about text. Throws std::invalid_argument if they contradict each other, or if
// iconv does not know the encoding.
struct TextMode {
    static TextMode of(const Options& options);

    bool on = false;
    std::string encoding = {};  // empty: bytes pass as they are
    CodecErrors errors = CodecErrors::strict;
};

// An iconv conversion with Python's error handlers.
class Converter {
  public:
    enum class Direction { to_utf8, from_utf8 };
    Converter(const TextMode& mode, Direction direction);
    ~Converter();
    Converter(const Converter&) = delete;
    Converter& operator=(const Converter&) = delete;

    // Appends the conversion to `out`; an incomplete sequence at the end waits for what follows.
    void convert(std::string_view bytes, std::string& out);
    // The end of the text: an incomplete sequence is an error now.
    void finish(std::string& out);

  private:
    // How an encoding groups its bytes.
    struct Layout {
        std::size_t unit = 1;  // bytes of its shortest character
        bool utf8 = false;
    };
    static Layout layout_of(const std::string& encoding);

    std::size_t run(std::string_view bytes, std::string& out);
    std::size_t bad_sequence(std::string_view at, std::string& out, bool at_end);
    std::size_t bad_length(std::string_view at, bool at_end);
    void put_instead(std::string_view replacement, std::string_view bad, std::string& out);

    void* handle_;
    Direction direction_;
    CodecErrors errors_;
    std::string encoding_;
    std::optional<Layout> layout_;  // since the first bad sequence
    std::string pending_;
};

class TextDecoder {
  public:
    explicit TextDecoder(const TextMode& mode);
    ~TextDecoder();
    TextDecoder(TextDecoder&&) noexcept = default;
    TextDecoder& operator=(TextDecoder&&) noexcept = default;
    void decode(std::string_view bytes, std::string& out);
    void finish(std::string& out);

  private:
    void normalise(std::string_view text, std::string& out);

    std::unique_ptr<Converter> converter_;
    bool after_return_ = false;
};

}  // namespace sidestep::subprocess
