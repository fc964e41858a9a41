#include <sidestep/shared_object.hpp>

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

#include "mapped_segment.hpp"
#include "participant.hpp"
#include "sys.hpp"

namespace sidestep::detail {
namespace {

constexpr const char* kName = "Shared";
constexpr std::uint64_t kKind = object_kind("sidestep.Shared.1");
constexpr std::size_t kKept = 64;

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
struct Kept {
    std::mutex mutex;
    std::deque<std::shared_ptr<MappedSegment>> segments;  // the last used is the last

    static Kept& instance() {
        static Kept* const made = [] {
            static Kept* fresh = new Kept;
            // A child of fork() must not inherit the mutex locked by a thread that it does not
            // have.
            pthread_atfork([] { fresh->mutex.lock(); }, [] { fresh->mutex.unlock(); },
                           [] { fresh->mutex.unlock(); });
            return fresh;
        }();
        return *made;
    }
    // What is let go is destroyed by the caller, outside the lock.
    std::deque<std::shared_ptr<MappedSegment>> clean(const std::shared_ptr<MappedSegment>& used) {
        std::deque<std::shared_ptr<MappedSegment>> gone;
        std::lock_guard lock(mutex);
        // The kernel is asked when a value is new: who uses the same one in each task does not pay.
        bool is_new = used && std::find(segments.begin(), segments.end(), used) == segments.end();
        std::map<OwnerId, bool> alive;  // what the kernel said: many values have one creator
        auto is_kept = [&](const MappedSegment& each) {
            const auto& stored = *each.segment().at<StoredValue>();
            if (stored.dropped.load() != 0) return false;
            if (!is_new) return true;
            auto [creator, unknown] = alive.try_emplace(stored.creator, true);
            if (unknown) creator->second = is_alive(stored.creator);
            return creator->second;  // a dead one drops nothing any more
        };
        std::deque<std::shared_ptr<MappedSegment>> stay;
        for (auto& each : segments)
            (each == used || !is_kept(*each) ? gone : stay).push_back(std::move(each));
        if (used && is_kept(*used)) stay.push_back(used);
        while (stay.size() > kKept) {
            gone.push_back(std::move(stay.front()));
            stay.pop_front();
        }
        segments = std::move(stay);
        return gone;
    }
};

}  // namespace

ObjectRef store_value(std::span<const std::byte> bytes, std::uint64_t type, ValuePointer value) {
    std::size_t total = sizeof(StoredValue) + bytes.size();
    auto segment = MappedSegment::create("sidestep-shared", total);
    if (!sys::populate(segment->segment().bytes())) throw std::bad_alloc();
    auto* stored = new (segment->data()) StoredValue;
    stored->header = {kKind, total};
    stored->type = type;
    stored->size = bytes.size();
    stored->creator = this_process();
    if (!bytes.empty()) std::memcpy(stored->bytes(), bytes.data(), bytes.size());
    segment->attachment = std::move(value);
    return ObjectRef(std::move(segment), stored);
}

std::shared_ptr<void> dropper_of(const ObjectRef& ref) {
    OwnerId creator = this_process();
    return std::shared_ptr<void>(nullptr, [ref, creator](void*) {
        if (this_process() != creator) return;  // a forked child's copy
        ref.as<StoredValue>(kName).dropped.store(1);
        (void)Kept::instance().clean(nullptr);
    });
}

void save_value(const ObjectRef& ref, OutputArchive& archive) { ref.save(archive, kName); }

void load_value(ObjectRef& ref, InputArchive& archive, std::uint64_t type) {
    ref.load(archive, kKind, kName);
    auto& stored = ref.as<StoredValue>(kName);
    if (stored.type != type || stored.header.size < sizeof(StoredValue) ||
        stored.size > stored.header.size - sizeof(StoredValue))
        throw SerializationError(
            "cannot receive a Shared: it holds another type (the types of the two sides do not "
            "agree)");
}

ValuePointer value_of(const ObjectRef& ref, ValuePointer (*decode)(std::span<const std::byte>)) {
    const std::shared_ptr<MappedSegment>& segment = ref.segment();
    auto& stored = ref.as<StoredValue>(kName);
    ValuePointer value;
    {
        std::lock_guard lock(segment->mutex);
        if (!segment->attachment) segment->attachment = decode({stored.bytes(), stored.size});
        value = segment->attachment;
    }
    (void)Kept::instance().clean(segment);
    return value;
}

}  // namespace sidestep::detail
