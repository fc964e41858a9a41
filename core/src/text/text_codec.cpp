#include "text/text_codec.hpp"

#include <fmt/format.h>
#include <iconv.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>

#include <sidestep/subprocess_result.hpp>

#include "sys/error.hpp"

namespace sidestep::inline v0::subprocess {
namespace {

constexpr const char* kUtf8 = "UTF-8";
const auto kNoHandle = reinterpret_cast<void*>(-1);

// The length of the character that `text` begins with. What is no character is cut as Python cuts
// it: to the longest beginning of one (Unicode 3.9, table 3-7), or to a single byte.
std::size_t utf8_length(std::string_view text) {
    auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    unsigned first = byte(0);
    std::size_t whole = 1;
    if (first >= 0xc2 && first <= 0xf4) whole = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    unsigned low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    std::size_t length = 1;
    while (length < std::min(whole, text.size()) && byte(length) >= low && byte(length) <= high) {
        ++length;
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

// Appends a few characters as `handle` encodes them. False: it has not got them all.
bool encode(void* handle, std::string_view text, std::string& out) {
    char buffer[64];
    char* in = const_cast<char*>(text.data());
    std::size_t left = text.size();
    char* at = buffer;
    std::size_t room = sizeof buffer;
    bool done = ::iconv(handle, &in, &left, &at, &room) != static_cast<std::size_t>(-1);
    out.append(buffer, sizeof buffer - room);
    return done;
}

}  // namespace

TextMode TextMode::of(const Options& options) {
    if (options.text && options.universal_newlines && *options.text != *options.universal_newlines)
        throw std::invalid_argument(
            "text and universal_newlines are two names of one thing and contradict each other: "
            "give one of them");
    TextMode mode;
    mode.on = options.text.value_or(false) || options.universal_newlines.value_or(false) ||
              !options.encoding.empty() || options.errors.has_value();
    mode.encoding = options.encoding;
    if (mode.encoding.empty() && options.errors) mode.encoding = kUtf8;
    mode.errors = options.errors.value_or(CodecErrors::strict);
    if (!mode.encoding.empty()) Converter(mode, Converter::Direction::to_utf8);  // throws
    return mode;
}

Converter::Converter(const TextMode& mode, Direction direction)
    : direction_(direction), errors_(mode.errors), encoding_(mode.encoding) {
    const char* from = direction == Direction::to_utf8 ? encoding_.c_str() : kUtf8;
    const char* to = direction == Direction::to_utf8 ? kUtf8 : encoding_.c_str();
    handle_ = ::iconv_open(to, from);
    if (handle_ == kNoHandle)
        throw std::invalid_argument(fmt::format(
            "encoding \"{}\" is not known: `iconv -l` lists those that are", encoding_));
}

Converter::~Converter() { ::iconv_close(handle_); }

void Converter::convert(std::string_view bytes, std::string& out) {
    if (pending_.empty()) {
        pending_ = bytes.substr(run(bytes, out));
        return;
    }
    pending_ += bytes;
    pending_.erase(0, run(pending_, out));
}

void Converter::finish(std::string& out) {
    std::string_view rest = pending_;
    while (!rest.empty()) {
        rest.remove_prefix(bad_sequence(rest, out, true));
        rest.remove_prefix(run(rest, out));
    }
    pending_.clear();
    char buffer[64];
    char* at = buffer;
    std::size_t left = sizeof buffer;
    ::iconv(handle_, nullptr, nullptr, &at, &left);  // back to the initial shift state
    out.append(buffer, sizeof buffer - left);
}

// Returns how many bytes were consumed; the rest is an incomplete sequence.
std::size_t Converter::run(std::string_view bytes, std::string& out) {
    char buffer[4096];
    char* in = const_cast<char*>(bytes.data());
    std::size_t left = bytes.size();
    while (left > 0) {
        char* at = buffer;
        std::size_t room = sizeof buffer;
        std::size_t result = ::iconv(handle_, &in, &left, &at, &room);
        int error = errno;
        out.append(buffer, sizeof buffer - room);
        if (result != static_cast<std::size_t>(-1) || error == E2BIG) continue;
        if (error == EINVAL || left == 0) break;  // EILSEQ at the end: "//IGNORE" left out some
        std::size_t skipped = bad_sequence({in, left}, out, false);
        in += skipped;
        left -= skipped;
    }
    return bytes.size() - left;
}

// Applies the error handler to the sequence that `at` begins with; returns its length.
std::size_t Converter::bad_sequence(std::string_view at, std::string& out, bool at_end) {
    bool decoding = direction_ == Direction::to_utf8;
    if (errors_ == CodecErrors::strict)
        throw DecodeError(fmt::format(
            "byte {:#04x} {} \"{}\"; give `errors` to replace or ignore such bytes",
            static_cast<unsigned char>(at[0]),
            decoding ? "is no text in the encoding" : "begins what cannot be written in",
            encoding_));
    std::string_view bad = at.substr(0, bad_length(at, at_end));
    if (errors_ == CodecErrors::replace) put_instead(decoding ? "\xef\xbf\xbd" : "?", bad, out);
    if (errors_ == CodecErrors::backslashreplace)
        for (char c : bad)
            put_instead(fmt::format("\\x{:02x}", static_cast<unsigned char>(c)), bad, out);
    if (errors_ == CodecErrors::surrogateescape) out += bad;
    return bad.size();
}

// At the end of the text, what iconv was still waiting for is one sequence.
std::size_t Converter::bad_length(std::string_view at, bool at_end) {
    if (direction_ == Direction::from_utf8) return utf8_length(at);
    if (!layout_) layout_ = layout_of(encoding_);
    if (layout_->utf8) return utf8_length(at);
    return at_end ? at.size() : std::min(layout_->unit, at.size());
}

// Strictly: a replacement that is missing in the encoding itself must not be replaced in turn.
void Converter::put_instead(std::string_view replacement, std::string_view bad, std::string& out) {
    if (direction_ == Direction::to_utf8)
        out += replacement;
    else if (!encode(handle_, replacement, out))
        throw DecodeError(fmt::format(
            "byte {:#04x} begins what cannot be written in \"{}\", nor can \"{}\" in its place; "
            "give another encoding, or errors = ignore",
            static_cast<unsigned char>(bad[0]), encoding_, replacement));
}

// Told by what becomes of two characters: an encoding has too many names to tell by them.
Converter::Layout Converter::layout_of(const std::string& encoding) {
    constexpr std::string_view kEuro = "\xe2\x82\xac";
    void* encoder = ::iconv_open(encoding.c_str(), kUtf8);
    if (encoder == kNoHandle) return {};
    std::string with_mark, letter, euro;
    encode(encoder, "A", with_mark);  // the first one brings a byte order mark
    encode(encoder, "A", letter);
    encode(encoder, kEuro, euro);
    ::iconv_close(encoder);
    return {std::max<std::size_t>(letter.size(), 1), euro == kEuro};
}

TextDecoder::TextDecoder(const TextMode& mode) {
    if (!mode.encoding.empty())
        converter_ = std::make_unique<Converter>(mode, Converter::Direction::to_utf8);
}
TextDecoder::~TextDecoder() = default;

void TextDecoder::decode(std::string_view bytes, std::string& out) {
    if (!converter_) return normalise(bytes, out);
    std::string text;
    converter_->convert(bytes, text);
    normalise(text, out);
}

void TextDecoder::finish(std::string& out) {
    if (!converter_) return;
    std::string text;
    converter_->finish(text);
    normalise(text, out);
}

// "\r" is a newline at once; a "\n" that follows it, in this piece or the next, is left out.
void TextDecoder::normalise(std::string_view text, std::string& out) {
    while (!text.empty()) {
        if (after_return_ && text[0] == '\n') text.remove_prefix(1);
        after_return_ = false;
        std::size_t end = text.find('\r');
        out += text.substr(0, end);
        if (end == std::string_view::npos) return;
        out += '\n';
        after_return_ = true;
        text.remove_prefix(end + 1);
    }
}

}  // namespace sidestep::subprocess
