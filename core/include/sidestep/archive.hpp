// The two cereal archives that carry tasks, results and messages between processes.
//
// A type travels when cereal can serialize it: arithmetic types and enums, the standard containers
// (their cereal headers are included here), and your own types with a `serialize` member or free
// function, or a save/load pair. See https://uscilab.github.io/cereal/.
//
// Format: native byte order and sizes, no padding; lengths are 64-bit. Both ends have to have the
//         same: they are one program, as a rule on one machine; over TCP (a ManagerServer, a
//         cluster) on machines of one kind. Elements of arithmetic type go in bulk.
// Errors: SerializationError, which names what was expected and what was there (cereal::Exception
//         for an impossible variant index, or a polymorphic type that is not registered: cereal's
//         own checks). Every length is checked against the bytes that remain before anything is
//         allocated; whatever is left over at the end is an error.
// Trust:  what is read may come from anybody. Memory grows as elements arrive, to a small multiple
//         of them; what a type itself makes of few bytes (an empty optional of a large array) is
//         its own. A shared pointer is read as the type that it was first read as, and a
//         polymorphic one as a registered type that derives from the one asked for. Pointers may
//         form a ring, and a polymorphic unique_ptr may name a registered type that does not
//         derive: the one leaks, and so does the object of the other, behind an error. Functions
//         are named by a task's arguments only: see task.hpp. A type's own `load` has to check what
//         it reads.
// Limits: values of class type can be read 1000 deep inside one another (each node of a list of
//         unique_ptr is two). A type with load_and_construct cannot refer to itself. A container
//         whose elements take no bytes (empty classes) cannot be read back if it has elements: its
//         length would have no bytes to back it. An enum takes any value that its bytes have: if
//         these are damaged, one that it has no name for.
// Threads: an archive belongs to one thread.
#pragma once

#include <cereal/cereal.hpp>
#include <cereal/types/array.hpp>
#include <cereal/types/chrono.hpp>
#include <cereal/types/complex.hpp>
#include <cereal/types/deque.hpp>
#include <cereal/types/forward_list.hpp>
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

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <forward_list>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <typeindex>
#include <typeinfo>
#include <utility>
#include <vector>

#include <sidestep/detail/travel.hpp>

namespace sidestep::inline v0 {

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

// The fewest bytes that a T takes; 1 where that is not known.
template <class T>
inline constexpr std::size_t kLeastBytes = std::is_arithmetic_v<T> || std::is_enum_v<T> ||
                                                   BitwiseElement<T>
                                               ? sizeof(T)
                                               : 1;
template <class T, std::size_t n>
inline constexpr std::size_t kLeastBytes<std::array<T, n>> = n == 0 ? 1 : n* kLeastBytes<T>;
template <class A, class B>
inline constexpr std::size_t kLeastBytes<std::pair<A, B>> = kLeastBytes<A> + kLeastBytes<B>;
template <class T, class Allocator>
inline constexpr std::size_t kLeastBytes<std::vector<T, Allocator>> = sizeof(std::uint64_t);
template <class C, class Traits, class Allocator>
inline constexpr std::size_t kLeastBytes<std::basic_string<C, Traits, Allocator>> =
    sizeof(std::uint64_t);

// Values that count where they lie inside one another: a type that contains itself goes through one
// of these. Not what cereal wraps them in, nor what cannot contain itself without their help.
template <class T>
inline constexpr bool kNests = std::is_class_v<T>;
template <class T>
inline constexpr bool kNests<cereal::NameValuePair<T>> = false;
template <class T>
inline constexpr bool kNests<cereal::SizeTag<T>> = false;
template <class T>
inline constexpr bool kNests<cereal::BinaryData<T>> = false;
template <class K, class T>
inline constexpr bool kNests<cereal::MapItem<K, T>> = false;
template <class T>
inline constexpr bool kNests<cereal::memory_detail::PtrWrapper<T>> = false;
template <class... T>
inline constexpr bool kNests<std::tuple<T...>> = false;
template <class A, class B>
inline constexpr bool kNests<std::pair<A, B>> = false;
template <class T, std::size_t n>
inline constexpr bool kNests<std::array<T, n>> = false;
template <class C, class Traits, class Allocator>
inline constexpr bool kNests<std::basic_string<C, Traits, Allocator>> = false;
template <BulkElement T, class Allocator>
inline constexpr bool kNests<std::vector<T, Allocator>> = false;
inline constexpr unsigned kDeepest = 1000;

// True of what an archive remembers when it has gone through it, for what comes after: pointers,
// the version of a class, a base that is virtual, a member that is put off (cereal::defer).
template <class T>
inline constexpr bool kIsPointer = false;
template <class T>
inline constexpr bool kIsPointer<std::shared_ptr<T>> = true;
template <class T>
inline constexpr bool kIsPointer<std::weak_ptr<T>> = true;
template <class T, class D>
inline constexpr bool kIsPointer<std::unique_ptr<T, D>> = true;
template <class T>
inline constexpr bool kIsPointer<cereal::memory_detail::PtrWrapper<T>> = true;
template <class Archive, class T>
consteval bool is_remembered() {
    namespace traits = cereal::traits;
    if constexpr (kIsPointer<T> || std::is_base_of_v<traits::detail::BaseCastBase, T> ||
                  std::is_base_of_v<cereal::detail::DeferredDataCore, T>)
        return true;  // any base: cereal reads its value without a prologue
    else if constexpr (!std::is_class_v<T> && !std::is_enum_v<T>)
        return false;
    else if constexpr (traits::has_member_versioned_serialize<T, Archive>::value ||
                       traits::has_non_member_versioned_serialize<T, Archive>::value)
        return true;
    else if constexpr (std::is_base_of_v<cereal::detail::OutputArchiveBase, Archive>)
        return traits::has_member_versioned_save<T, Archive>::value ||
               traits::has_non_member_versioned_save<T, Archive>::value ||
               traits::has_member_versioned_save_minimal<T, Archive>::value ||
               traits::has_non_member_versioned_save_minimal<T, Archive>::value;
    else
        return traits::has_member_versioned_load<T, Archive>::value ||
               traits::has_non_member_versioned_load<T, Archive>::value ||
               traits::has_member_versioned_load_minimal<T, Archive>::value ||
               traits::has_non_member_versioned_load_minimal<T, Archive>::value;
}

// True for a type that carries function pointers, as far as that can be seen: bind() of one, and
// whatever standard template holds it. (What a user's type hides is found when it is read.)
template <class T>
inline constexpr bool names_code = false;
template <template <class...> class Template, class... T>
inline constexpr bool names_code<Template<T...>> = (names_code<T> || ...);
template <class T, std::size_t n>
inline constexpr bool names_code<std::array<T, n>> = names_code<T>;

// The shared pointers that an archive has met. An id stands for an object *of one type*: an object
// and its first member have one address, and whoever wrote the bytes may lie.
class SentPointers {
  public:
    // Its id, with cereal's mark if it is new.
    std::uint32_t number(const std::shared_ptr<const void>& pointer, const std::type_info& type);

  private:
    std::map<std::pair<const void*, std::type_index>, std::uint32_t> ids_;
    std::vector<std::shared_ptr<const void>> kept_;  // so that no address is used again
};
class ReceivedPointers {
  public:
    void add(std::uint32_t id, std::shared_ptr<void> pointer, const std::type_info& type,
             bool usable);
    void set_usable(std::uint32_t id) { known_.at(id).usable = true; }
    // Throws SerializationError if there is none, or it is of another type.
    const std::shared_ptr<void>& find(std::uint32_t id, const std::type_info& type) const;

  private:
    struct Known {
        std::shared_ptr<void> pointer;
        std::type_index type;
        bool usable;  // false: its constructor has not run yet
    };
    std::map<std::uint32_t, Known> known_;
};

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

// New memory of this size and more is asked for in large pages before it is written.
inline constexpr std::size_t kLargeRead = std::size_t(4) << 20;
void expect_writes(void* begin, std::size_t size) noexcept;

[[noreturn]] void throw_short_read(std::size_t wanted, std::size_t remaining);
[[noreturn]] void throw_bad_length(std::uint64_t length, std::size_t remaining);
[[noreturn]] void throw_bad_bool(unsigned value);
[[noreturn]] void throw_left_over(std::size_t remaining);
[[noreturn]] void throw_too_deep();
[[noreturn]] void throw_unknown_pointer(std::uint32_t id);
// The exception that is being handled; that of an archive says what could not be read: else it
// would look like one that the task threw.
[[noreturn]] void rethrow_unread(const char* what);
// The same of one of a call's arguments, of which so many were read before.
[[noreturn]] void rethrow_argument_unread(std::size_t before, std::size_t count);

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

    // One that writes into the same buffer and remembers nothing of what was written before: for a
    // value that is read by itself, one of many. (To make an archive costs as much as to write a
    // short string.)
    OutputArchive& apart() {
        if (!apart_ || apart_->remembers_) apart_ = std::make_unique<OutputArchive>(*buffer_, fds_);
        return *apart_;
    }
    void remember() { remembers_ = true; }
    // Called by cereal, instead of its own, which knows no types.
    template <class T>
    std::uint32_t registerSharedPointer(const std::shared_ptr<T>& pointer) {
        if (pointer == nullptr) return 0;
        if (pointers_ == nullptr) pointers_ = std::make_unique<detail::SentPointers>();
        return pointers_->number(pointer, typeid(T));
    }

  private:
    detail::OutputBuffer* buffer_;
    detail::FdSink* fds_;
    detail::CallTimes* times_ = nullptr;
    std::unique_ptr<detail::SentPointers> pointers_;  // from the first one on
    std::unique_ptr<OutputArchive> apart_;
    bool remembers_ = false;
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
    std::span<const std::byte> rest() const { return {cursor_, remaining()}; }
    std::size_t remaining() const { return static_cast<std::size_t>(end_ - cursor_); }
    bool is_aligned_for(std::size_t alignment) const {
        return reinterpret_cast<std::uintptr_t>(cursor_) % alignment == 0;
    }
    // Goes on with other bytes, outside all values (an exception may have left some open).
    void reset(std::span<const std::byte> bytes) {
        cursor_ = bytes.data();
        end_ = bytes.data() + bytes.size();
        depth_ = 0;
    }
    // One that reads these bytes, and remembers nothing of what was read before; until it is asked
    // for again.
    InputArchive& apart(std::span<const std::byte> bytes) {
        if (apart_ && !apart_->remembers_) {
            apart_->reset(bytes);
        } else {
            apart_ = std::make_unique<InputArchive>(bytes, fds_);
            apart_->functions_allowed_ = functions_allowed_;
        }
        return *apart_;
    }
    void remember() { remembers_ = true; }
    // Throws if anything is left over.
    void expect_end() const {
        if (remaining() != 0) detail::throw_left_over(remaining());
    }
    detail::FdSource* fds() const { return fds_; }

    // These are a task's arguments: they come from whoever gives this process its work, and may
    // name functions. Messages and results may not: see names_code.
    void allow_functions() { functions_allowed_ = true; }
    bool functions_allowed() const { return functions_allowed_; }

    // Around each value that is read inside another.
    void enter() {
        if (++depth_ > detail::kDeepest) detail::throw_too_deep();
    }
    void leave() { --depth_; }

    // Called by cereal, instead of its own, which knows no types.
    template <class T>
    void registerSharedPointer(std::uint32_t id, const std::shared_ptr<T>& pointer) {
        constexpr bool made_later = cereal::traits::has_load_and_construct<T, InputArchive>::value;
        if (pointers_ == nullptr) pointers_ = std::make_unique<detail::ReceivedPointers>();
        pointers_->add(id & ~cereal::detail::msb_32bit, pointer, typeid(T), !made_later);
    }
    template <class T>
    void set_usable(std::uint32_t id) {
        if constexpr (cereal::traits::has_load_and_construct<T, InputArchive>::value)
            pointers_->set_usable(id & ~cereal::detail::msb_32bit);
    }
    template <class T>
    std::shared_ptr<T> known_pointer(std::uint32_t id) const {
        if (id == 0) return nullptr;
        if (pointers_ == nullptr) detail::throw_unknown_pointer(id);
        return std::static_pointer_cast<T>(pointers_->find(id, typeid(T)));
    }

  private:
    const std::byte* cursor_;
    const std::byte* end_;
    detail::FdSource* fds_;
    std::unique_ptr<detail::ReceivedPointers> pointers_;  // from the first one on
    std::unique_ptr<InputArchive> apart_;
    unsigned depth_ = 0;
    bool remembers_ = false;
    bool functions_allowed_ = false;
};

// --- how cereal reaches the archives ---------------------------------------------------------

template <class T>
void prologue(OutputArchive& archive, const T&) {
    if constexpr (detail::is_remembered<OutputArchive, T>()) archive.remember();
}
template <class T>
void prologue(InputArchive& archive, const T&) {
    if constexpr (detail::kNests<T>) archive.enter();
    if constexpr (detail::is_remembered<InputArchive, T>()) archive.remember();
}
template <class T>
void epilogue(InputArchive& archive, const T&) {
    if constexpr (detail::kNests<T>) archive.leave();
}

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

// A pointer that is new is read by cereal; one that was met before is looked up by id *and* type.
template <class T>
void CEREAL_LOAD_FUNCTION_NAME(InputArchive& archive,
                               cereal::memory_detail::PtrWrapper<std::shared_ptr<T>&>& wrapper) {
    std::span<const std::byte> ahead = archive.rest();
    std::uint32_t id = 0;
    if (ahead.size() < sizeof id) detail::throw_short_read(sizeof id, ahead.size());
    std::memcpy(&id, ahead.data(), sizeof id);
    if ((id & cereal::detail::msb_32bit) != 0) {
        cereal::CEREAL_LOAD_FUNCTION_NAME(archive, wrapper);
        archive.set_usable<std::remove_const_t<T>>(id);
    } else {
        archive.read(&id, sizeof id);
        wrapper.ptr = archive.known_pointer<T>(id);
    }
}

}  // namespace sidestep

#include <sidestep/detail/archive_types.hpp>  // IWYU pragma: export

CEREAL_REGISTER_ARCHIVE(sidestep::OutputArchive)
CEREAL_REGISTER_ARCHIVE(sidestep::InputArchive)
CEREAL_SETUP_ARCHIVE_TRAITS(sidestep::InputArchive, sidestep::OutputArchive)
