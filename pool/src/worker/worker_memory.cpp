#include "worker/worker_memory.hpp"

#include <algorithm>
#include <new>

namespace sidestep::inline v0::detail {
namespace {

constexpr std::size_t kSomeBlocks = 16;

}  // namespace

WorkerMemory::WorkerMemory(std::size_t arena_bytes)
    : ring_segment(Segment::create("sidestep-ring", kRingBytes)),
      results(Segment::reserve("sidestep-results", arena_bytes, kLeastArena)) {
    auto* header = new (ring_segment.data()) RingHeader;
    header->capacity = kRingCapacity;
    new (header->slots()) TaskSlot[kRingCapacity];
    ring = RingParent(header, kRingCapacity);
    new (ring_segment.data() + kWorkerWordsAt) WorkerWords;
    new (ring_segment.data() + kCrashRecordAt) CrashRecord;
    to_give_back_.reserve(kSomeBlocks);
}

CrashRecord& WorkerMemory::crash() const {
    return *reinterpret_cast<CrashRecord*>(ring_segment.data() + kCrashRecordAt);
}

const WorkerWords& WorkerMemory::words() const {
    return *reinterpret_cast<const WorkerWords*>(ring_segment.data() + kWorkerWordsAt);
}

void WorkerMemory::close_descriptors() {
    ring_segment.close_descriptor();
    results.close_descriptor();
}

bool WorkerMemory::lend() noexcept {
    if (lent_ + 1 >= to_give_back_.capacity()) {
        try {
            to_give_back_.reserve(2 * to_give_back_.capacity());
        } catch (const std::bad_alloc&) {
            return false;
        }
    }
    ++lent_;
    return true;
}

// A block that was not lent may find no room: then the worker does without it.
void WorkerMemory::take_back(BlockId block) noexcept {
    if (!alive) return;
    lent_ -= std::min<std::size_t>(lent_, 1);
    if (to_give_back_.empty() && ring.give_back(block)) return;
    if (to_give_back_.size() < to_give_back_.capacity()) to_give_back_.push_back(block);
    give_back_queued();
}

void WorkerMemory::give_back_queued() noexcept {
    while (!to_give_back_.empty() && ring.give_back(to_give_back_.back())) to_give_back_.pop_back();
}

}  // namespace sidestep::detail
