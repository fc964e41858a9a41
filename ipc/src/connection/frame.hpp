// The frame of a message, as Python's multiprocessing.connection has it: the length as a signed
// 32-bit big-endian number, then the bytes. Longer than 2^31-1: -1, then the length as an unsigned
// 64-bit big-endian number.
//
// Threads: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace sidestep::inline v0 {

struct FrameHeader {
    static constexpr std::size_t kShort = 4;
    static constexpr std::size_t kLong = 12;
    std::byte bytes[kLong];
    std::size_t size = 0;

    std::span<const std::byte> span() const { return {bytes, size}; }
};

inline std::uint64_t load_big_endian(std::span<const std::byte> bytes) {
    std::uint64_t value = 0;
    for (std::byte b : bytes) value = value << 8 | std::to_integer<std::uint64_t>(b);
    return value;
}

inline void store_big_endian(std::uint64_t value, std::span<std::byte> bytes) {
    for (std::size_t i = bytes.size(); i-- > 0; value >>= 8) bytes[i] = std::byte(value & 0xff);
}

inline FrameHeader encode_header(std::uint64_t length) {
    FrameHeader header;
    bool is_short = length <= INT32_MAX;
    header.size = is_short ? FrameHeader::kShort : FrameHeader::kLong;
    std::span<std::byte> bytes(header.bytes);
    store_big_endian(is_short ? length : 0xffffffffu, bytes.first(FrameHeader::kShort));
    if (!is_short) store_big_endian(length, bytes.subspan(FrameHeader::kShort));
    return header;
}

// What the first four bytes say: a length, that eight more bytes say it, or nonsense.
struct ShortHeader {
    enum class Kind { length, extended, invalid } kind;
    std::uint64_t length = 0;
};
inline ShortHeader decode_short_header(std::span<const std::byte, FrameHeader::kShort> bytes) {
    auto value = static_cast<std::uint32_t>(load_big_endian(bytes));
    if (value <= INT32_MAX) return {ShortHeader::Kind::length, value};
    if (value == 0xffffffffu) return {ShortHeader::Kind::extended, 0};
    return {ShortHeader::Kind::invalid, 0};
}

}  // namespace sidestep
