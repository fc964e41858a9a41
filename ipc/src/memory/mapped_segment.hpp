// The shared memory that handles refer to, once in each process.
//
// Segments are known by their inode: a descriptor that arrives for one that is mapped already is
// closed, and the handle shares the mapping. A segment lives for as long as some handle in some
// process refers to it, and dies with the last (also of kill -9): nothing counts, nothing is named.
//
// Small objects (locks, events, values) share a segment: 128-byte cells, handed out once and never
// again, since nobody can know whether another process still looks at one. The memory goes when all
// objects of the segment are gone.
//
// Threads: all thread-safe. Fork: a child makes its new objects in segments of its own.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>

#include <sidestep/detail/object_ref.hpp>

#include "memory/participant.hpp"
#include "memory/segment.hpp"

namespace sidestep::inline v0 {

class MappedSegment {
  public:
    static std::shared_ptr<MappedSegment> create(const char* name, std::size_t size);
    // As large as possible, at least `least` (Segment::reserve).
    static std::shared_ptr<MappedSegment> reserve(const char* name, std::size_t wanted,
                                                  std::size_t least);
    // Another process's. Throws SerializationError if it is not a sealed segment.
    static std::shared_ptr<MappedSegment> adopt(Fd fd);
    ~MappedSegment();
    MappedSegment(const MappedSegment&) = delete;
    MappedSegment& operator=(const MappedSegment&) = delete;

    const Segment& segment() const { return segment_; }
    std::byte* data() const { return segment_.data(); }
    std::size_t size() const { return segment_.size(); }
    std::uint64_t identity() const { return identity_; }
    // False: another process's, who has forbidden it.
    bool is_writable() const { return writable_; }

    // What this process keeps beside the memory, once somebody has made it: by make() that one
    // thread calls, while the others wait. No mutex is held meanwhile: a child that is forked then,
    // which does not have that thread, makes its own. Passes on what make() throws.
    using Attachment = std::shared_ptr<const void>;
    Attachment attachment(const std::function<Attachment()>& make);
    void attach(Attachment made);
    // What it keeps beside one object, for all its handles: what no other process may write. Must
    // not outlive the object's segment.
    template <class T>
    static std::shared_ptr<T> beside(const detail::ObjectRef& ref) {
        return std::static_pointer_cast<T>(beside(
            ref.get(), []() -> void* { return new T; },
            [](void* kept) { delete static_cast<T*>(kept); }));
    }

  private:
    struct Key {
        dev_t device;
        ino_t inode;
        bool operator<(const Key& other) const {
            return device != other.device ? device < other.device : inode < other.inode;
        }
    };
    struct Registry;
    static Registry& registry();
    static Key key_of(int fd);
    Attachment attachment() const;
    static std::shared_ptr<MappedSegment> enter(Segment segment);
    static std::shared_ptr<void> beside(void* object, void* (*make)(), void (*drop)(void*));
    MappedSegment(Segment segment, Key key) : segment_(std::move(segment)), key_(key) {}
    friend std::byte* allocate_cell(std::size_t, std::shared_ptr<MappedSegment>&);

    Segment segment_;
    bool writable_ = true;  // constant once it is known to others
    const Key key_;         // known at its end without asking the system
    const std::uint64_t identity_ = detail::new_identity();
    Attachment attachment_;          // guarded by the registry's mutex
    std::atomic<OwnerId> maker_{0};  // the process of which a thread makes it; a futex
};

// What each shared object begins with: a receiver checks that it is what the bytes claim.
struct ObjectHeader {
    std::uint64_t kind = 0;  // detail::object_kind("Lock")
    std::uint64_t size = 0;  // of the whole object
};
inline constexpr std::size_t kCell = 128;

// Zeroed memory for a new object, at most a quarter of a segment of cells.
std::byte* allocate_cell(std::size_t size, std::shared_ptr<MappedSegment>& segment);

// Makes a T (which begins with an ObjectHeader named `header`) and `extra` bytes behind it.
template <class T>
detail::ObjectRef make_object(std::uint64_t kind, const char* name, std::size_t extra = 0) {
    constexpr std::size_t kShared = 16 << 10;
    std::size_t size = sizeof(T) + extra;
    std::shared_ptr<MappedSegment> segment;
    std::byte* at = nullptr;
    if (size <= kShared) {
        at = allocate_cell(size, segment);
    } else {
        segment = MappedSegment::create(name, size);
        at = segment->data();
    }
    T* object = new (at) T;
    object->header = {kind, size};
    return detail::ObjectRef(std::move(segment), object);
}

}  // namespace sidestep
