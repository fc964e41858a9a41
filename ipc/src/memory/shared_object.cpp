#include <sidestep/shared_object.hpp>

#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <mutex>

#include "memory/mapped_segment.hpp"
#include "memory/participant.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr const char* kSharedName = "Shared";
constexpr std::uint64_t kSharedKind = object_kind("sidestep.Shared.1");
constexpr std::size_t kKept = 64;

// Written by its creator alone: others map it for reading only, and so does the creator once it is
// complete, since its forked children share the mapping.
struct alignas(kCell) StoredValue {
    ObjectHeader header;
    std::uint64_t type = 0;
    std::uint64_t size = 0;
    OwnerId creator = 0;
    std::atomic<std::uint32_t> dropped{0};  // set once, by the creator

    std::byte* bytes() { return reinterpret_cast<std::byte*>(this + 1); }
};
static_assert(sizeof(StoredValue) == kCell);

// The values that arrived and may arrive again: a handle that comes with each task is dropped with
// each task. Never destroyed, as the segments' registry.
class Kept {
  public:
    static Kept& instance() {
        static Kept* const made = [] {
            static Kept* fresh = new Kept;
            // A child of fork() must not inherit the mutex locked by a thread that it does not
            // have.
            pthread_atfork([] { fresh->mutex_.lock(); }, [] { fresh->mutex_.unlock(); },
                           [] { fresh->mutex_.unlock(); });
            return fresh;
        }();
        return *made;
    }
    // Needs no memory: it runs when handles are dropped. What is let go is destroyed outside the
    // lock.
    void clean(const std::shared_ptr<MappedSegment>& used) noexcept {
        Segments before, gone;
        std::size_t let_go = 0, stay = 0;
        std::lock_guard lock(mutex_);  // released before `gone` is destroyed
        // The kernel is asked when a value is new: who uses the same one in each task does not pay.
        bool is_new =
            used && std::find(segments_.begin(), segments_.end(), used) == segments_.end();
        OwnerId alive = 0, dead = 0;  // what the kernel said last: many values have one creator
        auto is_kept = [&](const MappedSegment& each) {
            const auto& stored = *each.segment().at<StoredValue>();
            if (stored.dropped.load() != 0) return false;
            OwnerId creator = stored.creator;
            if (!is_new || creator == alive) return true;
            if (creator == dead) return false;
            bool lives = is_alive(creator);
            (lives ? alive : dead) = creator;
            return lives;  // a dead one drops nothing any more
        };
        before.swap(segments_);
        for (auto& each : before) {
            if (!each) continue;
            bool drop = each == used || !is_kept(*each);
            (drop ? gone[let_go++] : segments_[stay++]) = std::move(each);
        }
        if (!used || !is_kept(*used)) return;
        if (stay == kKept) {
            gone[let_go++] = std::move(segments_[0]);
            std::move(segments_.begin() + 1, segments_.end(), segments_.begin());
            --stay;
        }
        segments_[stay] = used;
    }

  private:
    using Segments = std::array<std::shared_ptr<MappedSegment>, kKept>;
    std::mutex mutex_;
    Segments segments_;  // the last used is the last; then none
};

}  // namespace

ObjectRef store_value(std::span<const std::byte> bytes, std::uint64_t type, ValuePointer value) {
    std::size_t total = sizeof(StoredValue) + bytes.size();
    auto segment = MappedSegment::create("sidestep-shared", total);
    if (!sys::populate(segment->segment().bytes())) throw std::bad_alloc();
    auto* stored = new (segment->data()) StoredValue;
    stored->header = {kSharedKind, total};
    stored->type = type;
    stored->size = bytes.size();
    stored->creator = this_process();
    if (!bytes.empty()) std::memcpy(stored->bytes(), bytes.data(), bytes.size());
    segment->attach(std::move(value));
    sys::forbid_new_writers(segment->segment().fd().get());
    (void)sys::protect(segment->segment().bytes(), sys::Access::read_only);
    return ObjectRef(std::move(segment), stored);
}

std::shared_ptr<void> dropper_of(const ObjectRef& ref) {
    (void)Kept::instance();  // here: when the value goes, there may be no memory for it
    OwnerId creator = this_process();
    return std::shared_ptr<void>(nullptr, [ref, creator](void*) {
        if (this_process() != creator) return;  // a forked child's copy
        auto& stored = ref.as<StoredValue>(kSharedName);
        // If there is no memory to split the mapping with, others keep the value for longer.
        std::span<std::byte> head(reinterpret_cast<std::byte*>(&stored), sizeof stored);
        if (sys::protect(head, sys::Access::read_write)) stored.dropped.store(1);
        Kept::instance().clean(nullptr);
    });
}

void save_value(const ObjectRef& ref, OutputArchive& archive) { ref.save(archive, kSharedName); }

ValuePointer load_value(ObjectRef& ref, InputArchive& archive, std::uint64_t type,
                        ValuePointer (*decode)(std::span<const std::byte>)) {
    std::size_t room =
        ref.load(archive, kSharedKind, kSharedName, sizeof(StoredValue), ObjectRef::Use::read) -
        sizeof(StoredValue);
    auto& stored = ref.as<StoredValue>(kSharedName);
    // A copy: what is checked is what is used. (The memory may be a stranger's, who can write it.)
    const volatile std::uint64_t& shared_size = stored.size;
    std::uint64_t size = shared_size;
    if (stored.type != type || size > room)
        throw SerializationError(
            "cannot receive a Shared: it holds another type (the types of the two sides do not "
            "agree)");
    const std::shared_ptr<MappedSegment>& segment = ref.segment();
    ValuePointer value = segment->attachment([&] { return decode({stored.bytes(), size}); });
    Kept::instance().clean(segment);
    return value;
}

}  // namespace sidestep::detail
