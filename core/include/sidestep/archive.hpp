// The two cereal archives that carry tasks, results and messages between processes.
//
// A type travels when cereal can serialize it: arithmetic types and enums, the standard containers
// (their cereal headers are included here), and your own types with a `serialize` member or free
// function, or a save/load pair. See https://uscilab.github.io/cereal/.
//
// Format: native byte order and sizes, no padding; lengths are 64-bit. Both ends are one program on
//         one machine. Elements of arithmetic type go in bulk.
// Errors: SerializationError, which names what was expected and what was there (cereal::Exception
//         for an impossible variant index or smart pointer number: cereal's own check). Every
//         length is checked against the bytes that remain before anything is allocated; whatever is
//         left over at the end is an error.
// Limits: a container whose elements take no bytes (empty classes) cannot be read back if it has
//         elements: its length would have no bytes to back it. An enum takes any value that its
//         bytes have: if these are damaged, one that it has no name for.
// Threads: an archive belongs to one thread.
#pragma once

#include <cereal/cereal.hpp>
#include <cereal/types/array.hpp>
#include <cereal/types/chrono.hpp>
#include <cereal/types/complex.hpp>
#include <cereal/types/deque.hpp>
#include <cereal/types/list.hpp>
#include <cereal/types/map.hpp>
#include <cereal/types/memory.hpp>
#include <cereal/types/optional.hpp>
#include <cereal/types/set.hpp>
#include <cereal/types/string.hpp>
#include <cereal/types/tuple.hpp>
#include <cereal/types/unordered_map.hpp>
#include <cereal/types/unordered_set.hpp>
#include <cereal/types/utility.hpp>
#include <cereal/types/variant.hpp>
#include <cereal/types/vector.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace sidestep {

// The bytes do not hold what was asked for: too short, too long, or impossible.
class SerializationError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Opt-in: elements of this trivially copyable type travel as raw memory, in bulk. Only for types
// without pointers, and whose padding may be seen by the other process:
//     template <> inline constexpr bool sidestep::is_bitwise<Point> = true;
template <class T>
inline constexpr bool is_bitwise = false;

namespace detail {

class CallTimes;

template <class T>
concept BitwiseElement =
    is_bitwise<T> && std::is_trivially_copyable_v<T> && !std::is_arithmetic_v<T>;
// Elements of vectors that go in bulk. (cereal's own vectors of numbers do too, but allocate for as
// many elements as there are bytes before they find out.)
template <class T>
concept BulkElement = BitwiseElement<T> ||(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);

// Where an output archive writes: a window of memory that grow() replaces by a larger one.
class OutputBuffer {
  public:
    virtual ~OutputBuffer() = default;
    void write(const void* data, std::size_t size) {
        if (size > static_cast<std::size_t>(end_ - cursor_)) grow(size);
        if (size != 0) std::memcpy(cursor_, data, size);  // nothing may come with a null pointer
        cursor_ += size;
    }
    std::byte* begin() const { return begin_; }
    std::size_t size() const { return static_cast<std::size_t>(cursor_ - begin_); }
    std::size_t capacity() const { return static_cast<std::size_t>(end_ - begin_); }
    void clear() { cursor_ = begin_; }
    // Drops what was written behind the first `size` bytes.
    void truncate(std::size_t size) { cursor_ = begin_ + size; }

  protected:
    // Postcondition: room for `more` bytes behind the cursor; what was written is kept.
    virtual void grow(std::size_t more) = 0;
    void set_window(std::byte* begin, std::size_t used, std::size_t capacity) {
        begin_ = begin;
        cursor_ = begin + used;
        end_ = begin + capacity;
    }

  private:
    std::byte* begin_ = nullptr;
    std::byte* cursor_ = nullptr;
    std::byte* end_ = nullptr;
};

// An output buffer on the heap.
class HeapBuffer final : public OutputBuffer {
  public:
    std::span<const std::byte> bytes() const { return {begin(), size()}; }

  private:
    void grow(std::size_t more) override;
    std::vector<std::byte> memory_;
};

// A number that nothing else in this process has, or had.
std::uint64_t new_identity() noexcept;

// How descriptors travel beside the bytes. A transport that cannot carry any passes none.
class FdSink {
  public:
    virtual ~FdSink() = default;
    // Returns the number that stands for it in the bytes. Equal descriptors may share one: many
    // small objects lie in one segment.
    virtual std::uint64_t put(int fd) = 0;
    // The same for one that belongs to `owner` and stands for one thing while that lives, such as a
    // segment of shared memory: who sends again and again to the same receiver sends it once.
    // `identity`: the owner's, from new_identity().
    virtual std::uint64_t put_lasting(int fd, std::uint64_t identity,
                                      const std::shared_ptr<const void>& owner) {
        (void)identity, (void)owner;
        return put(fd);
    }
};
class FdSource {
  public:
    virtual ~FdSource() = default;
    // An owned descriptor; another one each time that a number is asked for.
    virtual int get(std::uint64_t number) = 0;
    // What a lasting one stands for: what make() makes of the owned descriptor, or made before.
    using Make = std::shared_ptr<void> (*)(int fd);
    virtual std::shared_ptr<void> get_lasting(std::uint64_t number, Make make) {
        return make(get(number));
    }
};

// Makes a value that is about to be read: a handle's default constructor would create a new shared
// object, only for it to be replaced; handles have a constructor from Blank instead.
struct Blank {};
// A handle that is nothing but descriptors (SharedMemory has a name as well).
template <class T>
inline constexpr bool needs_fds = std::is_constructible_v<T, Blank>;
template <class T>
T make_blank() {
    if constexpr (std::is_constructible_v<T, Blank>)
        return T(Blank{});
    else
        return T{};
}

// New memory of this size and more is asked for in large pages before it is written.
inline constexpr std::size_t kLargeRead = std::size_t(4) << 20;
void expect_writes(void* begin, std::size_t size) noexcept;

[[noreturn]] void throw_short_read(std::size_t wanted, std::size_t remaining);
[[noreturn]] void throw_bad_length(std::uint64_t length, std::size_t remaining);
[[noreturn]] void throw_bad_bool(unsigned value);
[[noreturn]] void throw_left_over(std::size_t remaining);

}  // namespace detail

// Writes values into a buffer: archive(a, b, c).
class OutputArchive : public cereal::OutputArchive<OutputArchive, cereal::AllowEmptyClassElision> {
  public:
    explicit OutputArchive(detail::OutputBuffer& buffer, detail::FdSink* fds = nullptr)
        : cereal::OutputArchive<OutputArchive, cereal::AllowEmptyClassElision>(this),
          buffer_(&buffer),
          fds_(fds) {}

    void write(const void* data, std::size_t size) { buffer_->write(data, size); }
    detail::FdSink* fds() const { return fds_; }
    detail::OutputBuffer& buffer() const { return *buffer_; }
    // Who writes a task's result tells these how far it is; null: nobody measures.
    detail::CallTimes* times() const { return times_; }
    void set_times(detail::CallTimes* times) { times_ = times; }

  private:
    detail::OutputBuffer* buffer_;
    detail::FdSink* fds_;
    detail::CallTimes* times_ = nullptr;
};

// Reads values from a span, in place: archive(a, b, c). The span must outlive the archive.
class InputArchive : public cereal::InputArchive<InputArchive, cereal::AllowEmptyClassElision> {
  public:
    explicit InputArchive(std::span<const std::byte> bytes, detail::FdSource* fds = nullptr)
        : cereal::InputArchive<InputArchive, cereal::AllowEmptyClassElision>(this),
          cursor_(bytes.data()),
          end_(bytes.data() + bytes.size()),
          fds_(fds) {}

    void read(void* data, std::size_t size) {
        if (size > remaining()) detail::throw_short_read(size, remaining());
        if (size != 0) std::memcpy(data, cursor_, size);  // nothing may go to a null pointer
        cursor_ += size;
    }
    // The next bytes without a copy.
    std::span<const std::byte> view(std::size_t size) {
        if (size > remaining()) detail::throw_short_read(size, remaining());
        const std::byte* at = cursor_;
        cursor_ += size;
        return {at, size};
    }
    std::size_t remaining() const { return static_cast<std::size_t>(end_ - cursor_); }
    bool is_aligned_for(std::size_t alignment) const {
        return reinterpret_cast<std::uintptr_t>(cursor_) % alignment == 0;
    }
    // Goes on with other bytes.
    void reset(std::span<const std::byte> bytes) {
        cursor_ = bytes.data();
        end_ = bytes.data() + bytes.size();
    }
    // Throws if anything is left over.
    void expect_end() const {
        if (remaining() != 0) detail::throw_left_over(remaining());
    }
    detail::FdSource* fds() const { return fds_; }

  private:
    const std::byte* cursor_;
    const std::byte* end_;
    detail::FdSource* fds_;
};

// --- how cereal reaches the archives ---------------------------------------------------------

template <class T>
requires std::is_arithmetic_v<T>
void CEREAL_SAVE_FUNCTION_NAME(OutputArchive& archive, const T& value) {
    archive.write(&value, sizeof value);
}
template <class T>
requires std::is_arithmetic_v<T>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive, T& value) {
    if constexpr (std::is_same_v<T, bool>) {
        unsigned char byte = 0;
        archive.read(&byte, 1);
        if (byte > 1) detail::throw_bad_bool(byte);
        value = byte != 0;
    } else {
        archive.read(&value, sizeof value);
    }
}

template <class T>
void CEREAL_SAVE_FUNCTION_NAME(OutputArchive& archive, const cereal::BinaryData<T>& data) {
    archive.write(data.data, static_cast<std::size_t>(data.size));
}
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive, cereal::BinaryData<T>& data) {
    archive.read(data.data, static_cast<std::size_t>(data.size));
}

template <class T>
void CEREAL_SAVE_FUNCTION_NAME(OutputArchive& archive, const cereal::SizeTag<T>& tag) {
    auto size = static_cast<std::uint64_t>(tag.size);
    archive.write(&size, sizeof size);
}
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive, cereal::SizeTag<T>& tag) {
    std::uint64_t size = 0;
    archive.read(&size, sizeof size);
    if (size > archive.remaining()) detail::throw_bad_length(size, archive.remaining());
    tag.size = static_cast<std::decay_t<T>>(size);
}

template <class Archive, class T>
requires std::is_same_v<Archive, OutputArchive> || std::is_same_v<Archive, InputArchive>
void CEREAL_SERIALIZE_FUNCTION_NAME(Archive& archive, cereal::NameValuePair<T>& pair) {
    archive(pair.value);
}

// --- types that cereal does not bring --------------------------------------------------------

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
    cereal::size_type size = 0;
    archive(cereal::make_size_tag(size));
    if (size > archive.remaining() / sizeof(T))
        detail::throw_bad_length(size, archive.remaining() / sizeof(T));
    auto count = static_cast<std::size_t>(size);
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
template <class Traits, class Allocator>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive,
                               std::basic_string<char, Traits, Allocator>& text) {
    cereal::size_type size = 0;
    archive(cereal::make_size_tag(size));
    auto bytes = archive.view(static_cast<std::size_t>(size));
    text.clear();
    text.reserve(bytes.size());
    if (bytes.size() >= detail::kLargeRead) detail::expect_writes(text.data(), bytes.size());
    text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace sidestep

namespace std::filesystem {

inline void CEREAL_SAVE_FUNCTION_NAME(sidestep::OutputArchive& archive, const path& value) {
    archive(value.native());
}
inline void CEREAL_LOAD_FUNCTION_NAME(sidestep::InputArchive& archive, path& value) {
    std::string text;
    archive(text);
    value = std::move(text);
}

}  // namespace std::filesystem

CEREAL_REGISTER_ARCHIVE(sidestep::OutputArchive)
CEREAL_REGISTER_ARCHIVE(sidestep::InputArchive)
CEREAL_SETUP_ARCHIVE_TRAITS(sidestep::InputArchive, sidestep::OutputArchive)
