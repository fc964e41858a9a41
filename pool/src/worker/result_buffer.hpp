// Where a worker writes its results.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include <sidestep/archive.hpp>

#include "memory/arena.hpp"
#include "queue/partial_result.hpp"
#include "queue/task_ring.hpp"
#include "worker/worker_meter.hpp"

namespace sidestep::inline v0 {

// The worker's blocks of shared memory for large results, given back by the parent.
class ResultArena {
  public:
    ResultArena(const Segment& segment, RingWorker& ring, WorkerWords& words)
        : arena_(segment), ring_(&ring), words_(&words) {}

    BlockId allocate(std::size_t size) {
        take_back();
        return arena_.allocate(size);
    }
    // What the parent has finished with. Of very large blocks the pages go back to the system.
    void take_back() {
        while (BlockId block = ring_->take_freed()) {
            if (!arena_.is_in_use(block)) end_damaged(*words_, Damage::found_later);
            arena_.free(block);
        }
    }
    void free(BlockId block) { arena_.free(block); }
    // There is nothing to do: the pages of what is free go back to the system.
    void give_back_pages() {
        take_back();
        arena_.give_back_pages();
    }
    std::byte* data(BlockId block) const { return arena_.data(block); }

  private:
    Arena arena_;
    RingWorker* ring_;
    WorkerWords* words_;
};

// Writes a result into the slot, and into the arena when it grows.
class ResultBuffer final : public detail::OutputBuffer {
  public:
    // The writer is told of each change; it outlives this object.
    ResultBuffer(TaskSlot& slot, PartialWriter& partial, ResultArena& arena)
        : slot_(&slot), partial_(&partial), arena_(&arena) {
        set_window(slot_->inline_bytes, 0, TaskSlot::kInline);
    }
    ~ResultBuffer() override {
        if (block_) arena_->free(block_);  // abandoned by an exception
    }

    void restart() {
        partial_->begin_anew();
        if (block_) arena_->free(block_);
        block_ = 0;
        set_window(slot_->inline_bytes, 0, TaskSlot::kInline);
    }
    // The block that the result lies in, which is the caller's now; 0: the slot.
    BlockId release() { return std::exchange(block_, 0); }

  private:
    void grow(std::size_t more) override {
        std::size_t used = size();
        BlockId larger = arena_->allocate(std::max(used + more, 2 * capacity()));
        std::memcpy(arena_->data(larger), begin(), used);
        partial_->moved_to(larger);
        if (block_) arena_->free(block_);
        block_ = larger;
        set_window(arena_->data(block_), used, Arena::capacity(block_));
    }

    TaskSlot* slot_;
    PartialWriter* partial_;
    ResultArena* arena_;
    BlockId block_ = 0;
};

}  // namespace sidestep
