#include "text/columns.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace sidestep::inline v0 {
namespace {

struct CodeRange {
    std::uint32_t first, last;
};
// Of Unicode 15: those of two columns (EastAsianWidth W and F, in blocks), and those of none.
constexpr CodeRange kTwoColumns[] = {
    {0x1100, 0x115f},   {0x2e80, 0x303e},   {0x3041, 0xa4cf},  {0xa960, 0xa97f}, {0xac00, 0xd7a3},
    {0xf900, 0xfaff},   {0xfe30, 0xfe6f},   {0xff00, 0xff60},  {0xffe0, 0xffe6}, {0x1f300, 0x1f64f},
    {0x1f680, 0x1f6ff}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd}};
constexpr CodeRange kNoColumns[] = {{0x0300, 0x036f}, {0x0483, 0x0489}, {0x0591, 0x05bd},
                                    {0x0610, 0x061a}, {0x064b, 0x065f}, {0x1ab0, 0x1aff},
                                    {0x1dc0, 0x1dff}, {0x200b, 0x200f}, {0x20d0, 0x20ff},
                                    {0xfe00, 0xfe0f}, {0xfe20, 0xfe2f}, {0xe0100, 0xe01ef}};

template <std::size_t N>
bool is_in(const CodeRange (&ranges)[N], std::uint32_t code) {
    return std::any_of(std::begin(ranges), std::end(ranges), [code](const CodeRange& range) {
        return range.first <= code && code <= range.last;
    });
}

struct Character {
    std::size_t bytes, columns;
};
// Of a text that is not empty. A byte that is no UTF-8 is a character of one column.
Character first_character(std::string_view text) {
    const auto lead = static_cast<unsigned char>(text[0]);
    const std::size_t bytes = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    if (bytes == 1 || text.size() < bytes) return {1, 1};
    std::uint32_t code = lead & (0xffu >> (bytes + 1));
    for (std::size_t i = 1; i < bytes; ++i) {
        const auto next = static_cast<unsigned char>(text[i]);
        if ((next & 0xc0) != 0x80) return {1, 1};
        code = code << 6 | (next & 0x3f);
    }
    return {bytes, is_in(kTwoColumns, code) ? 2u : is_in(kNoColumns, code) ? 0u : 1u};
}

}  // namespace

std::size_t columns_of(std::string_view text) {
    std::size_t columns = 0;
    while (!text.empty()) {
        const Character next = first_character(text);
        columns += next.columns;
        text.remove_prefix(next.bytes);
    }
    return columns;
}

void cut_to_columns(std::string& text, std::size_t columns) {
    std::size_t end = 0;
    while (end < text.size()) {
        const Character next = first_character(std::string_view(text).substr(end));
        if (next.columns > columns) return text.resize(end);
        columns -= next.columns;
        end += next.bytes;
    }
}

std::string printable(std::string text) {
    for (char& c : text)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
    return text;
}

}  // namespace sidestep
