// Round trips through the archives, with every way to damage them.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <catch2/catch.hpp>
#include <sidestep/archive.hpp>

namespace test {

using Bytes = std::vector<std::byte>;

template <class T>
Bytes saved(const T& value) {
    sidestep::detail::HeapBuffer buffer;
    sidestep::OutputArchive archive(buffer);
    archive(value);
    return {buffer.bytes().begin(), buffer.bytes().end()};
}

template <class T>
T loaded(std::span<const std::byte> bytes) {
    sidestep::InputArchive archive(bytes);
    T value{};
    archive(value);
    archive.expect_end();
    return value;
}

// True if reading throws one of the documented errors; any other ends the test.
template <class T>
bool refuses(std::span<const std::byte> bytes) {
    try {
        (void)loaded<T>(bytes);
        return false;
    } catch (const sidestep::SerializationError&) {
        return true;
    } catch (const cereal::Exception&) {
        return true;
    }
}

// The value arrives; cut off anywhere, or with a byte too many, it is refused. Damaged anywhere, it
// is refused or read as something else: never a crash (the sanitizers watch).
template <class T>
void check_round_trip(const T& value) {
    Bytes bytes = saved(value);
    CHECK((loaded<T>(bytes) == value));
    std::size_t stride = bytes.size() / 500 + 1;
    bool all_refused = true;
    for (std::size_t size = 0; size < bytes.size(); size += stride) {
        Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));  // own memory
        all_refused = all_refused && refuses<T>(cut);
    }
    CHECK(all_refused);
    Bytes longer = bytes;
    longer.push_back(std::byte{0});
    CHECK_THROWS_AS(loaded<T>(longer), sidestep::SerializationError);
    for (std::size_t at = 0; at < bytes.size(); at += stride)
        for (unsigned flip : {0x01u, 0x80u, 0xffu}) {
            Bytes damaged = bytes;
            damaged[at] = std::byte(std::to_integer<unsigned>(damaged[at]) ^ flip);
            (void)refuses<T>(damaged);
        }
}

template <class... T>
void check_limits() {
    (check_round_trip(std::numeric_limits<T>::min()), ...);
    (check_round_trip(std::numeric_limits<T>::max()), ...);
    (check_round_trip(std::numeric_limits<T>::lowest()), ...);
    (check_round_trip(T{}), ...);
}

}  // namespace test
