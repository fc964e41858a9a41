// How a Future reads a result that travelled. Internal.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>

#include <sidestep/future.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

template <class T>
struct ResultReader {
    // Others never travel: their futures are of tasks in this process.
    static constexpr bool kReads =
        std::is_void_v<T> ||
        ((std::is_default_constructible_v<T> || std::is_constructible_v<T, Blank>)&&Travels<T>);

    static T read(std::span<const std::byte> bytes) {
        if constexpr (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>) {  // without an archive
            if (bytes.size() == sizeof(T)) {
                T value;
                std::memcpy(&value, bytes.data(), sizeof value);
                return value;
            }
        }
        InputArchive archive(bytes);
        if constexpr (std::is_void_v<T>) {
            archive.expect_end();
        } else {
            T value = make_blank<T>();
            archive(value);
            archive.expect_end();
            return value;
        }
    }
};

}  // namespace sidestep::detail
