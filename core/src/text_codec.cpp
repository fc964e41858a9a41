#include "text_codec.hpp"

#include <fmt/format.h>
#include <iconv.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>

#include <sidestep/subprocess_result.hpp>

#include "error.hpp"

namespace sidestep::subprocess {
namespace {

constexpr const char* kUtf8 = "UTF-8";
const auto kNoHandle = reinterpret_cast<void*>(-1);

// How much to leave out at a bad sequence: bytes of the smallest unit of an encoding.
std::size_t unit_of(const std::string& encoding) {
    if (encoding.find("32") != std::string::npos || encoding.find("UCS-4") != std::string::npos)
        return 4;
    return encoding.find("16") != std::string::npos || encoding.find("UCS-2") != std::string::npos
               ? 2
               : 1;
}

std::size_t utf8_length(char first) {
    auto byte = static_cast<unsigned char>(first);
    return byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
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
        rest.remove_prefix(bad_sequence(rest, out));
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
        if (error == EINVAL) break;
        std::size_t skipped = bad_sequence({in, left}, out);
        in += skipped;
        left -= skipped;
    }
    return bytes.size() - left;
}

// Applies the error handler to the sequence that `at` begins with; returns its length.
std::size_t Converter::bad_sequence(std::string_view at, std::string& out) {
    bool decoding = direction_ == Direction::to_utf8;
    std::size_t length = decoding ? unit_of(encoding_) : utf8_length(at[0]);
    length = std::min(length, at.size());
    switch (errors_) {
        case CodecErrors::strict:
            throw DecodeError(fmt::format(
                "byte {:#04x} {} \"{}\"; give `errors` to replace or ignore such bytes",
                static_cast<unsigned char>(at[0]),
                decoding ? "is no text in the encoding" : "begins what cannot be written in",
                encoding_));
        case CodecErrors::replace:
            if (decoding)
                out += "\xef\xbf\xbd";
            else
                run("?", out);
            break;
        case CodecErrors::ignore:
            break;
        case CodecErrors::backslashreplace:
            for (char c : at.substr(0, length)) {
                std::string escaped = fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
                if (decoding)
                    out += escaped;
                else
                    run(escaped, out);
            }
            break;
        case CodecErrors::surrogateescape:
            out += at.substr(0, length);
            break;
    }
    return length;
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
