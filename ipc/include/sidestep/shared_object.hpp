// Shared<T>: a value that is stored once, and loaded once by each process that uses it.
//
//     double predict(const sidestep::Shared<Model>& model, const Row& row);
//
//     sidestep::Shared<Model> model(load_model());
//     auto results = pool.map(sidestep::bind(predict, model), rows);
//
// The value is serialized into shared memory when the handle is made. Passing the handle costs the
// same whatever its size; each process reads the value back on first use, and keeps it for the next
// handle that arrives, until the creator has dropped its last handle, or has died.
//
// Ownership:  a handle is a small value. The stored bytes live for as long as any handle does.
// Threads:    the value is const; thread-safe as far as const access to T is.
// Fork:       a forked child has the value as it is, and reads it itself if its parent was at that.
// Peer death: nothing to repair: the bytes are written before there is a handle, and never after:
//             the kernel lets no process write over them (on gVisor and before Linux 5.1: none that
//             does not mean to).
// Errors:     SerializationError; std::bad_alloc; std::logic_error if moved from.
// Limits:     a process keeps the 64 values that it used last. It looks for those that can go when
//             a handle arrives, and for dead creators when a handle of a new value does.
#pragma once

#include <memory>
#include <span>
#include <utility>

#include <sidestep/detail/object_ref.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0 {

namespace detail {

using ValuePointer = std::shared_ptr<const void>;
ObjectRef store_value(std::span<const std::byte> bytes, std::uint64_t type, ValuePointer value);
// When the last copy of what it returns is gone, others need not keep the value any longer.
std::shared_ptr<void> dropper_of(const ObjectRef& ref);
void save_value(const ObjectRef& ref, OutputArchive& archive);
// Returns the value, as this process has it; decode() makes it the first time.
ValuePointer load_value(ObjectRef& ref, InputArchive& archive, std::uint64_t type,
                        ValuePointer (*decode)(std::span<const std::byte>));

}  // namespace detail

template <class T>
class Shared {
    static_assert(detail::Travels<T>,
                  "a value of this type cannot be serialized: give it a cereal `serialize` member");

  public:
    explicit Shared(T value) {
        detail::HeapBuffer buffer;
        OutputArchive archive(buffer);
        archive(std::as_const(value));
        value_ = std::make_shared<const T>(std::move(value));
        ref_ = detail::store_value(buffer.bytes(), kType, value_);
        dropper_ = detail::dropper_of(ref_);
    }
    explicit Shared(detail::Blank) noexcept {}
    Shared() = default;  // no value: to be assigned to

    const T& get() const {
        if (!value_) detail::throw_no_object("Shared");
        return *value_;
    }
    const T& operator*() const { return get(); }
    const T* operator->() const { return &get(); }
    friend bool operator==(const Shared& a, const Shared& b) { return a.ref_ == b.ref_; }

    void save(OutputArchive& archive) const { detail::save_value(ref_, archive); }
    void load(InputArchive& archive) {
        auto decode = [](std::span<const std::byte> bytes) -> detail::ValuePointer {
            InputArchive input(bytes);
            T value = detail::make_blank<T>();
            input(value);
            input.expect_end();
            return std::make_shared<const T>(std::move(value));
        };
        value_ =
            std::static_pointer_cast<const T>(detail::load_value(ref_, archive, kType, decode));
    }

  private:
    static constexpr std::uint64_t kType = detail::hash_text(detail::type_text<T>());
    detail::ObjectRef ref_;
    std::shared_ptr<const T> value_;
    std::shared_ptr<void> dropper_;
};

}  // namespace sidestep
