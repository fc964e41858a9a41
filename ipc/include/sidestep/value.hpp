// Value<T>, Array<T>, RawValue<T>, RawArray<T>: data in memory that processes share.
//
// T is trivially copyable and means the same in every process: no pointers, no handles.
//
//                 | one T                     | many
//     with a lock | Value<T>: mutex()         | Array<T>: mutex()
//     without     | RawValue<T>               | RawArray<T>
//
// Nothing locks by itself: where several processes write, hold mutex() (as with
// `total.value() += 1`), write different elements, or use std::atomic as T (RawValue and RawArray
// have no lock then).
//
// Ownership:  a handle is a small value; its copies, those that travelled too, are the same memory.
//             It has no name, and is there for as long as any handle is. The cost of passing one
//             does not depend on its size.
// Threads:    the handle as std::shared_ptr; the data as any memory.
// Fork:       a forked child shares it.
// Peer death: a dead holder loses the mutex (lock.hpp); mutex().owner_died() then. What a process
//             that shares the memory writes there is there: no wild write is told from a meant one.
//             Place and size of the data are nobody else's to change.
// Errors:     std::bad_alloc if the system has no memory, or no address space; std::system_error
//             (EFBIG) if it is more than `ulimit -f` allows; std::out_of_range from at().
// Limits:     one descriptor for each large array in each process; memory is used as it is touched.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <sidestep/archive.hpp>
#include <sidestep/detail/object_ref.hpp>
#include <sidestep/lock.hpp>

namespace sidestep::inline v0 {

namespace detail {

// Zeroed memory for `count` elements, and its header.
ObjectRef make_data(std::size_t element_size, std::size_t alignment, std::size_t count);
// Returns how many elements there are: `least` at least.
std::size_t load_data(ObjectRef& ref, InputArchive& archive, std::size_t element_size,
                      std::size_t alignment, std::size_t least);
void save_data(const ObjectRef& ref, OutputArchive& archive);
std::byte* data_of(const ObjectRef& ref);  // null for none
[[noreturn]] void throw_out_of_range(std::size_t index, std::size_t size);

template <class T>
constexpr void check_shareable() {
    static_assert(std::is_trivially_copyable_v<T> || std::is_trivially_destructible_v<T>,
                  "what processes share must be trivially copyable (or an atomic): no pointers, no "
                  "std::string, no std::vector");
    static_assert(!std::is_pointer_v<T>, "a pointer means nothing in another process");
}

}  // namespace detail

// One T, without a lock.
template <class T>
class RawValue {
  public:
    // From the arguments of a constructor of T; from none: zero.
    template <class... Args>
    requires std::is_constructible_v<T, Args...>
    explicit RawValue(Args&&... args) : ref_(detail::make_data(sizeof(T), alignof(T), 1)) {
        detail::check_shareable<T>();
        value_ = new (detail::data_of(ref_)) T(std::forward<Args>(args)...);
    }
    explicit RawValue(detail::Blank) noexcept {}
    RawValue(const RawValue&) = default;  // moving is copying: no handle is left without its memory
    RawValue& operator=(const RawValue&) = default;

    T& value() const {
        if (!ref_) detail::throw_no_object("RawValue");
        return *value_;
    }
    friend bool operator==(const RawValue& a, const RawValue& b) { return a.ref_ == b.ref_; }

    void save(OutputArchive& archive) const { detail::save_data(ref_, archive); }
    void load(InputArchive& archive) {
        (void)detail::load_data(ref_, archive, sizeof(T), alignof(T), 1);
        value_ = reinterpret_cast<T*>(detail::data_of(ref_));
    }

  private:
    detail::ObjectRef ref_;
    T* value_ = nullptr;
};

// One T, and a lock to go with it: an RLock of its own, or a given one.
template <class T, class Mutex = RLock>
class Value {
  public:
    Value() = default;  // zero
    explicit Value(T initial) requires std::is_move_constructible_v<T> : data_(std::move(initial)) {
    }
    // A T that cannot be moved, such as an atomic, is made in its place.
    template <class Initial>
    requires(!std::is_move_constructible_v<T> &&
             std::is_constructible_v<T, Initial>) explicit Value(Initial&& initial)
        : data_(std::forward<Initial>(initial)) {}
    Value(T initial, Mutex mutex) : data_(std::move(initial)), mutex_(std::move(mutex)) {}
    explicit Value(detail::Blank blank) noexcept : data_(blank), mutex_(blank) {}

    T& value() const { return data_.value(); }
    Mutex& mutex() const { return mutex_; }
    // The same memory, as a handle without the lock.
    const RawValue<T>& raw() const { return data_; }
    friend bool operator==(const Value& a, const Value& b) { return a.data_ == b.data_; }

    void save(OutputArchive& archive) const { archive(data_, mutex_); }
    void load(InputArchive& archive) { archive(data_, mutex_); }

  private:
    RawValue<T> data_;
    mutable Mutex mutex_;
};

// Many T, without a lock. A contiguous range: of std algorithms, std::span, range-for.
template <class T>
class RawArray {
  public:
    using value_type = T;

    RawArray() = default;                 // no elements
    RawArray(const RawArray&) = default;  // moving is copying
    RawArray& operator=(const RawArray&) = default;
    explicit RawArray(detail::Blank) noexcept {}
    // `size` zeros; they take no memory before they are touched.
    explicit RawArray(std::size_t size) { allocate(size); }
    RawArray(std::size_t size, const T& fill) : RawArray(size) { std::fill(begin(), end(), fill); }
    RawArray(std::initializer_list<T> items) : RawArray(std::span<const T>(items)) {}
    explicit RawArray(std::span<const T> items) : RawArray(items.size()) {
        std::copy(items.begin(), items.end(), begin());
    }

    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }
    T* data() const { return data_; }
    T* begin() const { return data_; }
    T* end() const { return data_ + size_; }
    T& operator[](std::size_t index) const { return data_[index]; }
    T& at(std::size_t index) const {
        if (index >= size_) detail::throw_out_of_range(index, size_);
        return data_[index];
    }
    std::span<T> span() const { return {data_, size_}; }
    friend bool operator==(const RawArray& a, const RawArray& b) { return a.data_ == b.data_; }

    void save(OutputArchive& archive) const {
        archive(size_ > 0);
        if (size_ > 0) detail::save_data(ref_, archive);
    }
    void load(InputArchive& archive) {
        bool any = false;
        archive(any);
        *this = RawArray();
        if (!any) return;
        size_ = detail::load_data(ref_, archive, sizeof(T), alignof(T), 0);
        data_ = reinterpret_cast<T*>(detail::data_of(ref_));
    }

  private:
    void allocate(std::size_t size) {
        detail::check_shareable<T>();
        if (size == 0) return;
        ref_ = detail::make_data(sizeof(T), alignof(T), size);
        data_ = reinterpret_cast<T*>(detail::data_of(ref_));
        if constexpr (!std::is_trivially_default_constructible_v<T>)
            for (std::size_t i = 0; i < size; ++i) new (data_ + i) T();
        size_ = size;
    }
    detail::ObjectRef ref_;
    T* data_ = nullptr;
    std::size_t size_ = 0;
};

// Many T, and a lock to go with them.
template <class T, class Mutex = RLock>
class Array : public RawArray<T> {
  public:
    Array() = default;  // no elements
    explicit Array(detail::Blank blank) noexcept : RawArray<T>(blank), mutex_(blank) {}
    explicit Array(std::size_t size) : RawArray<T>(size) {}
    Array(std::size_t size, const T& fill) : RawArray<T>(size, fill) {}
    Array(std::initializer_list<T> items) : RawArray<T>(items) {}
    explicit Array(std::span<const T> items) : RawArray<T>(items) {}
    Array(std::span<const T> items, Mutex mutex) : RawArray<T>(items), mutex_(std::move(mutex)) {}

    Mutex& mutex() const { return mutex_; }
    const RawArray<T>& raw() const { return *this; }

    void save(OutputArchive& archive) const {
        RawArray<T>::save(archive);
        archive(mutex_);
    }
    void load(InputArchive& archive) {
        RawArray<T>::load(archive);
        archive(mutex_);
    }

  private:
    mutable Mutex mutex_;
};

// A new handle with the same content as another, in memory of its own.
template <class T>
RawValue<T> copy(const RawValue<T>& value) {
    return RawValue<T>(value.value());
}
template <class T>
RawArray<T> copy(const RawArray<T>& array) {
    return RawArray<T>(std::span<const T>(array.data(), array.size()));
}

}  // namespace sidestep
