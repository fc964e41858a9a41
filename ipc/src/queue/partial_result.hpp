// What is finished of a result that is still being written: where it lies, and how much of it there
// is. The worker appends, moves all of it to a larger block, or throws it away and begins anew; the
// parent copies it meanwhile. A seqlock whose words are TaskSlot's `progress` and `partial_block`:
//
// Q1 `progress` only grows while the bytes that it counts stay what they are. Before any of them is
//    written over (begin_anew), it is 0, and stays 0 until the task is complete.
// Q2 `partial_block` changes before the former block is used for anything else (moved_to).
// Q3 So a copy is good if afterwards the block is the same and `progress` is no smaller. That the
//    block is the same does not suffice: two results in a row may lie in the same one, or in none.
// Q4 Each of the two words changes after one of two others, in turn, vouches for what they will be
//    (ProgressTeller). Where nothing is finished, the place does not count. So whenever the worker
//    dies, one of the two vouches; if none does, though nothing changes, somebody wrote over them.
//
// The stores of Q1 and Q2 have a release fence behind them: a release store alone lets what is
// written after it be seen before it. (Boehm, "Can Seqlocks Get Along With Programming Language
// Memory Models?", MSPC 2012.)
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <sidestep/detail/progress_teller.hpp>

#include "queue/task_ring.hpp"

namespace sidestep::inline v0 {

// The key of what vouches for progress that is told there.
inline std::uint64_t partial_key(std::uint64_t serial, std::uint64_t block) {
    return serial * 0x9e3779b97f4a7c15u + block * 0xbf58476d1ce4e5b9u + 0x94d049bb133111ebu;
}

// The worker's side.
class PartialWriter : public detail::ProgressTeller {
  public:
    // Two of them: see ProgressTeller.
    explicit PartialWriter(std::atomic<std::uint64_t>* checks) { checks_ = checks; }

    // From now on it is about this task, whose slot says that nothing is finished.
    void begin(TaskSlot& slot, std::uint64_t serial) {
        slot_ = &slot;
        progress_ = &slot.progress;
        serial_ = serial;
        told_ = 0;
    }
    // All that was finished lies in that block too; the caller may use the former place again.
    void moved_to(std::uint64_t block) {
        std::uint64_t key = partial_key(serial_, block);
        if (told_ != 0)
            vouch(told_, key);  // Q4
        else
            key_ = key;
        slot_->partial_block.store(block, std::memory_order_release);  // SYNC(partial): with look
        std::atomic_thread_fence(std::memory_order_release);           // Q2
    }
    // Nothing is finished; the caller may write over all of it.
    void begin_anew() {
        vouch(0, partial_key(serial_, 0));
        told_ = 0;
        slot_->progress.store(0, std::memory_order_release);       // before the next one:
        slot_->partial_block.store(0, std::memory_order_release);  // SYNC(partial): with look
        std::atomic_thread_fence(std::memory_order_release);       // Q1
    }

  private:
    TaskSlot* slot_ = nullptr;
    std::uint64_t serial_ = 0;
};

// The parent's side.
class PartialLook {
  public:
    PartialLook(const TaskSlot& slot, const std::atomic<std::uint64_t>* checks)
        : slot_(&slot),
          // SYNC(partial): pairs with PartialWriter and ProgressTeller.
          progress(slot.progress.load(std::memory_order_acquire)),
          block(slot.partial_block.load(std::memory_order_acquire)),
          serial_(slot.serial),
          checks_{checks[0].load(std::memory_order_acquire),  // acquire: before is_unchanged()
                  checks[1].load(std::memory_order_acquire)} {}

    // Q4. False: somebody wrote over one of these words, or they were read amid a change.
    bool is_vouched_for() const {
        std::uint64_t vouched = progress ^ partial_key(serial_, progress == 0 ? 0 : block);
        return checks_[0] == vouched || checks_[1] == vouched;
    }
    // It was not amid a change.
    bool is_unchanged() const {
        return slot_->partial_block.load(std::memory_order_relaxed) == block &&
               slot_->progress.load(std::memory_order_relaxed) == progress;
    }
    // What was copied since then is of one piece (Q3).
    bool still_holds() const {
        std::atomic_thread_fence(std::memory_order_acquire);  // after the copy
        return slot_->partial_block.load(std::memory_order_relaxed) == block &&
               slot_->progress.load(std::memory_order_relaxed) >= progress;
    }

  private:
    const TaskSlot* slot_;

  public:
    const std::uint64_t progress;
    const std::uint64_t block;

  private:
    const std::uint64_t serial_;
    const std::uint64_t checks_[2];
};

// Copies what somebody may be writing: each word is read once, and the copy is thrown away if it
// does not hold. no_sanitize: that is a race by design, which a seqlock's second look finds.
__attribute__((no_sanitize("thread"))) inline void copy_racing(std::byte* to, const std::byte* from,
                                                               std::size_t size) {
    for (; size >= 8 && reinterpret_cast<std::uintptr_t>(from) % 8 == 0;
         size -= 8, from += 8, to += 8) {
        // Relaxed: PartialLook orders all of them.
        auto word = __atomic_load_n(reinterpret_cast<const std::uint64_t*>(from), __ATOMIC_RELAXED);
        __builtin_memcpy(to, &word, 8);
    }
    for (; size > 0; --size, ++from, ++to)
        *to = std::byte{
            __atomic_load_n(reinterpret_cast<const unsigned char*>(from), __ATOMIC_RELAXED)};
}

}  // namespace sidestep
