// Text mode: what becomes of bytes that are no text, in encodings of all kinds.
#include "text/text_codec.hpp"

#include <catch2/catch.hpp>
#include <sidestep/subprocess.hpp>

namespace codec_test {

namespace sp = sidestep::subprocess;
using namespace std::string_literals;
using Catch::Matchers::Contains;
using Errors = sp::CodecErrors;
using Direction = sp::Converter::Direction;

namespace {

// White box: without a child, so that the text can be cut into pieces at will.
std::string convert(Direction direction, std::string_view text, const std::string& encoding,
                    Errors errors, std::size_t piece = std::string::npos) {
    sp::Converter converter({.on = true, .encoding = encoding, .errors = errors}, direction);
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        std::string_view part = text.substr(at, piece);
        converter.convert(part, out);
        at += part.size();
    }
    converter.finish(out);
    return out;
}

std::string decode(std::string_view text, const std::string& encoding,
                   Errors errors = Errors::replace) {
    std::string whole = convert(Direction::to_utf8, text, encoding, errors);
    for (std::size_t piece = 1; piece < text.size(); ++piece) {
        CAPTURE(encoding, piece);
        CHECK(convert(Direction::to_utf8, text, encoding, errors, piece) == whole);
    }
    return whole;
}

std::string encode(std::string_view text, const std::string& encoding,
                   Errors errors = Errors::replace) {
    return convert(Direction::from_utf8, text, encoding, errors);
}

const std::string kBad = "\ufffd";

}  // namespace

TEST_CASE("a bad byte does not take good characters with it", "[core][subprocess][codec]") {
    for (const char* encoding : {"CP932", "MS932", "IBM932", "cp932", "UTF-8", "utf8", "EUC-JP"})
        CHECK(decode("\377abcdef", encoding) == kBad + "abcdef");
    CHECK(sp::check_output({"printf", "\\377abcdef"},
                           {.encoding = "CP932", .errors = Errors::replace}) == kBad + "abcdef");
}

TEST_CASE("in encodings of several bytes, a bad unit is left out as a whole",
          "[core][subprocess][codec]") {
    const std::string two = "a\0\0\xdc"s + "b\0"s;
    for (const char* encoding : {"UTF-16LE", "utf-16le", "Utf16LE", "UCS-2LE", "ucs-2le"})
        CHECK(decode(two, encoding) == "a" + kBad + "b");
    const std::string four = "a\0\0\0"s + "\0\xdc\0\0"s + "b\0\0\0"s;
    for (const char* encoding : {"UTF-32LE", "utf-32le", "UCS-4LE", "WCHAR_T"})
        CHECK(decode(four, encoding) == "a" + kBad + "b");
    CHECK(decode("\xfe\xff\0a\xdc\0\0b"s, "utf16") == "a" + kBad + "b");
}

TEST_CASE("bytes that are no UTF-8 are counted as Python counts them",
          "[core][subprocess][codec]") {
    auto bads = [](int n) {
        std::string all;
        while (n-- > 0) all += kBad;
        return all;
    };
    CHECK(decode("\xe2\x82"
                 "a",
                 "UTF-8") == bads(1) + "a");
    CHECK(decode("\xe2\x82", "utf8") == bads(1));
    CHECK(decode("\xf0\x9f\x98"
                 "a",
                 "UTF-8") == bads(1) + "a");
    CHECK(decode("\xe0\x80"
                 "a",
                 "UTF-8") == bads(2) + "a");  // no beginning of anything
    CHECK(decode("\xe0\x80", "UTF-8") == bads(2));
    CHECK(decode("\xed\xa0\x80", "UTF-8") == bads(3));  // a surrogate
    CHECK(decode("\xf5\x80", "UTF-8") == bads(2));
    CHECK(decode("\xc1\xbf", "UTF-8") == bads(2));
    CHECK(decode("\xe2\x82\xe2\x82\xac", "UTF-8") == bads(1) + "\u20ac");
    CHECK(decode("\xe2\x82"
                 "a",
                 "UTF-8", Errors::backslashreplace) ==
          "\\xe2\\x82"
          "a");
    CHECK(decode("\xe2\x82"
                 "a",
                 "UTF-8", Errors::ignore) == "a");
    CHECK(decode("\xe2\x82"
                 "a",
                 "UTF-8", Errors::surrogateescape) ==
          "\xe2\x82"
          "a");
}

TEST_CASE("a character that is cut off at the end is one bad sequence",
          "[core][subprocess][codec]") {
    CHECK(decode("a\0\x3d\xd8\0"s, "UTF-16LE") == "a" + kBad);
    CHECK(decode("a\x81\x30\x81", "GB18030") == "a" + kBad);
    CHECK_THROWS_AS(decode("a\x81", "CP932", Errors::strict), sp::DecodeError);
}

TEST_CASE("input that is no UTF-8 does not take good characters with it",
          "[core][subprocess][codec]") {
    CHECK(encode("caf\xe9 au lait", "ISO-8859-1") == "caf? au lait");
    CHECK(encode("\xe2\x82"
                 "a\u20ac"
                 "b\xf0",
                 "ISO-8859-1") == "?a?b?");
    CHECK(encode("caf\xe9 au lait", "ISO-8859-1", Errors::ignore) == "caf au lait");
    CHECK(encode("\u20ac", "ISO-8859-1", Errors::backslashreplace) == "\\xe2\\x82\\xac");
    CHECK(encode("a\u20ac"
                 "b",
                 "ISO-8859-1//IGNORE", Errors::strict) == "ab");
}

TEST_CASE("where the replacement cannot be written either, that is an error",
          "[core][subprocess][codec]") {
    for (const char* encoding : {"ASMO_449", "INIS"}) {
        CHECK_THROWS_AS(encode("\u20ac", encoding), sp::DecodeError);
        CHECK(encode("\u20ac", encoding, Errors::ignore) == "");
    }
    CHECK(encode("\u20ac", "ISO646-DE") == "?");
    CHECK_THROWS_WITH(encode("\u20ac", "ISO646-DE", Errors::backslashreplace),
                      Contains("0xe2") && Contains("ISO646-DE") && Contains("\\xe2"));
    sp::Options options = {
        .input = "\u20ac", .encoding = "ISO646-DE", .errors = Errors::backslashreplace};
    CHECK_THROWS_AS(sp::run({"cat"}, options), sp::DecodeError);
}

}  // namespace codec_test
