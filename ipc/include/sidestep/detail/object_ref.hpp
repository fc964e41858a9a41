// What all handles hold: a reference to an object in shared memory, which can travel.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <type_traits>

#include <sidestep/damaged_error.hpp>
#include <sidestep/detail/deadline.hpp>
#include <sidestep/detail/travel.hpp>

namespace sidestep::inline v0 {

class MappedSegment;

namespace detail {

constexpr std::uint64_t object_kind(std::string_view name) {  // FNV-1a
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    return hash;
}

[[noreturn]] void throw_no_object(const char* name);
[[noreturn]] void throw_damaged(const char* name);

// A counted reference (within this process) to an object in a shared segment.
class ObjectRef {
  public:
    ObjectRef() = default;
    ObjectRef(std::shared_ptr<MappedSegment> segment, void* object)
        : segment_(std::move(segment)), object_(object) {}

    // The object. Throws std::logic_error if there is none: moved from.
    template <class T>
    T& as(const char* name) const {
        if (!segment_) throw_no_object(name);
        return *static_cast<T*>(object_);
    }
    void* get() const { return segment_ ? object_ : nullptr; }
    const std::shared_ptr<MappedSegment>& segment() const { return segment_; }
    explicit operator bool() const { return segment_ != nullptr; }
    bool operator==(const ObjectRef& other) const { return object_ == other.object_; }

    // The descriptor of the segment and the place in it. Throws SerializationError where no
    // descriptors can travel, and if what arrives is not an object of this kind.
    void save(OutputArchive& archive, const char* name) const;
    // Returns the object's size, which is `least` or more, and lies within the segment. An object
    // that this process writes to is refused where it could not.
    enum class Use { read, write };
    std::size_t load(InputArchive& archive, std::uint64_t kind, const char* name, std::size_t least,
                     Use use = Use::write);

  private:
    std::shared_ptr<MappedSegment> segment_;
    void* object_ = nullptr;
};

// One descriptor through the archive; the same checks and errors.
void save_fd(OutputArchive& archive, int fd, const char* name);
int load_fd(InputArchive& archive, const char* name);  // owned
// One that belongs to `owner`, and what the receiver makes of it (FdSink::put_lasting).
void save_lasting(OutputArchive& archive, int fd, std::uint64_t identity,
                  const std::shared_ptr<const void>& owner, const char* name);
std::shared_ptr<void> load_lasting(InputArchive& archive, FdSource::Make make, const char* name);

}  // namespace detail
}  // namespace sidestep
