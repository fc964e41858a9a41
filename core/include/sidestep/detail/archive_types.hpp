// How the archives read and write what cereal does not bring, and the containers for which it
// trusts a length too much: memory is taken as elements come. A part of <sidestep/archive.hpp>.
//
// Threads, errors: those of the archives.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <deque>
#include <forward_list>
#include <list>
#include <map>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <sidestep/archive.hpp>

namespace sidestep::inline v0 {

namespace detail {

// A length that the bytes which are left can have; T: the elements.
template <class T>
std::size_t read_length(InputArchive& archive) {
    cereal::size_type size = 0;
    archive(cereal::make_size_tag(size));
    if (size > archive.remaining() / kLeastBytes<T>) throw_bad_length(size, archive.remaining());
    return static_cast<std::size_t>(size);
}
// What a length alone may reserve, in elements: the rest comes as they do.
template <class T>
inline constexpr std::size_t kFirstReserve = std::max<std::size_t>(1, 4096 / sizeof(T));
template <class Container>
void read_elements(InputArchive& archive, Container& values, std::size_t count) {
    for (; count != 0; --count) {
        if constexpr (needs_fds<typename Container::value_type>)
            values.emplace_back(Blank{});
        else
            values.emplace_back();
        archive(values.back());
    }
}

// std::filesystem::path. To include its header here would cost each user a quarter of a second, and
// who has a path has it.
template <class T>
concept FilePath = requires(const T& path) {
    T::preferred_separator;
    T::auto_format;
    { path.native() } -> std::same_as<const typename T::string_type&>;
};

}  // namespace detail

// cereal copies sizeof(array), which is not 0, from data(), which may be null.
template <class T>
void CEREAL_SAVE_FUNCTION_NAME(OutputArchive&, const std::array<T, 0>&) {}
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive&, std::array<T, 0>&) {}

// cereal puts each element in front of its equals, and so turns their order around.
template <class K, class T, class Compare, class Allocator>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive,
                               std::multimap<K, T, Compare, Allocator>& values) {
    cereal::size_type size = 0;
    archive(cereal::make_size_tag(size));
    values.clear();
    for (; size != 0; --size) {
        K key{};
        T value{};
        archive(cereal::make_map_item(key, value));
        values.emplace_hint(values.end(), std::move(key), std::move(value));
    }
}
template <class K, class Compare, class Allocator>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive, std::multiset<K, Compare, Allocator>& keys) {
    cereal::size_type size = 0;
    archive(cereal::make_size_tag(size));
    keys.clear();
    for (; size != 0; --size) {
        K key{};
        archive(key);
        keys.emplace_hint(keys.end(), std::move(key));
    }
}

template <detail::BitwiseElement T>
void CEREAL_SAVE_FUNCTION_NAME(OutputArchive& archive, const T& value) {
    archive.write(&value, sizeof value);
}
template <detail::BitwiseElement T>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive, T& value) {
    archive.read(&value, sizeof value);
}
template <detail::BulkElement T, class Allocator>
void CEREAL_SAVE_FUNCTION_NAME(OutputArchive& archive, const std::vector<T, Allocator>& values) {
    archive(cereal::make_size_tag(static_cast<cereal::size_type>(values.size())));
    archive.write(values.data(), values.size() * sizeof(T));
}
// Straight into new memory: a resize() would first fill it with zeros.
template <detail::BulkElement T, class Allocator>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive, std::vector<T, Allocator>& values) {
    std::size_t count = detail::read_length<T>(archive);
    values.clear();
    values.reserve(count);
    if (count * sizeof(T) >= detail::kLargeRead)
        detail::expect_writes(values.data(), count * sizeof(T));
    if (archive.is_aligned_for(alignof(T))) {
        auto* first = reinterpret_cast<const T*>(archive.view(count * sizeof(T)).data());
        values.assign(first, first + count);
    } else {
        values.resize(count);
        archive.read(values.data(), count * sizeof(T));
    }
}
template <class T, class Allocator>
requires(!detail::BulkElement<T> && !std::is_same_v<T, bool>) void CEREAL_LOAD_FUNCTION_NAME(
    InputArchive& archive, std::vector<T, Allocator>& values) {
    std::size_t count = detail::read_length<T>(archive);
    values.clear();
    values.reserve(std::min(count, detail::kFirstReserve<T>));
    detail::read_elements(archive, values, count);
}
template <class T, class Allocator>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive, std::deque<T, Allocator>& values) {
    std::size_t count = detail::read_length<T>(archive);
    values.clear();
    detail::read_elements(archive, values, count);
}
template <class T, class Allocator>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive, std::list<T, Allocator>& values) {
    std::size_t count = detail::read_length<T>(archive);
    values.clear();
    detail::read_elements(archive, values, count);
}
template <class T, class Allocator>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive, std::forward_list<T, Allocator>& values) {
    values.clear();
    auto last = values.before_begin();
    for (std::size_t count = detail::read_length<T>(archive); count != 0; --count) {
        last = values.emplace_after(last);
        archive(*last);
    }
}
template <class C, class Traits, class Allocator>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive,
                               std::basic_string<C, Traits, Allocator>& text) {
    std::size_t count = detail::read_length<C>(archive);
    text.resize(count);
    archive.read(text.data(), count * sizeof(C));
}
template <class Traits, class Allocator>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive,
                               std::basic_string<char, Traits, Allocator>& text) {
    auto bytes = archive.view(detail::read_length<char>(archive));
    text.clear();
    text.reserve(bytes.size());
    if (bytes.size() >= detail::kLargeRead) detail::expect_writes(text.data(), bytes.size());
    text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

template <detail::FilePath Path>
void CEREAL_SAVE_FUNCTION_NAME(OutputArchive& archive, const Path& path) {
    archive(path.native());
}
template <detail::FilePath Path>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive, Path& path) {
    typename Path::string_type text;
    archive(text);
    path = std::move(text);
}

}  // namespace sidestep
