// The ring of one worker: tasks go in, results come back in the same slots.
//
//     EMPTY --parent--> READY --worker, CAS--> TAKEN --worker--> DONE --parent--> EMPTY
//                         \-----parent, CAS--> EMPTY            (taken back, from the end only)
//
// R1 A slot has one writer: the parent while EMPTY or DONE, the worker while TAKEN. READY is
//    contested and changes by CAS only.
// R2 Content becomes visible through the one release store of the state. A slot that was published
//    and taken back is empty again, as if nothing had happened. Only its sum is wrong then (R5):
//    whoever writes READY there does not have the task run.
// R3 The worker goes through the slots in order. So the DONE ones are a prefix of [consumed,
//    published), at most one is TAKEN, the rest is READY. When the kernel has declared
//    the worker dead, this prefix property sorts every task: done, lost, not started.
// R4 Cursors are private to their side: `published`, `consumed` and `freed` to the parent, `next`
//    and `reused` to the worker; what the other side is shown of them is a copy. A worker that
//    scribbles over the slots can spoil the content of its own ring, not anyone's cursor; the
//    parent checks what it reads against its own records.
// R5 Whoever publishes a slot puts a sum of its content beside it, and whoever takes it compares: a
//    stray write into a slot that waits is found. It is no defence against an adversary.
//
// The algorithm is given its memory: it runs between processes and, under ThreadSanitizer, between
// threads.
#pragma once

#include <array>
#include <atomic>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "sync/event_count.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {

enum class SlotState : std::uint32_t { empty, ready, taken, done };

// lacks_fds: an error, since a lasting descriptor that the parent thought was there was not.
enum class ReplyKind : std::uint8_t { none, value, error, stopped, lacks_fds };

// Everything but the state is plain memory, guarded by R1 and R2; the three words at the end are
// read by the parent while the worker runs, and lie apart from the state, which it polls.
struct alignas(kCacheLine) TaskSlot {
    static constexpr std::size_t kInline = 152;

    std::atomic<SlotState> state{SlotState::empty};
    std::uint32_t sum = 0;     // R5: parent, of the task; worker, of its reply
    std::uint64_t serial = 0;  // parent: the task's number, never reused
    std::uint64_t module = 0;  // parent: the task's identity (TaskId)
    std::uint64_t offset = 0;
    union {
        std::uint64_t signature = 0;
        std::uint64_t begun_ns;  // worker, with its reply: when it claimed the task (steady clock)
    };
    std::uint64_t block = 0;           // 0: inline. parent: in the args arena; worker: result arena
    std::uint64_t size = 0;            // bytes of arguments, then of the result
    std::uint64_t duration_ns = 0;     // worker: from claim to completion
    std::uint32_t fds = 0;             // parent: how many descriptors travel beside
    std::uint16_t attempt = 1;         // parent: how often it is run, with this time
    ReplyKind reply{ReplyKind::none};  // worker
    std::uint8_t timed = 0;            // parent: the start of each item of a chunk is of interest
    std::uint32_t items_begin = 0;     // parent: which items of a chunk are to be run
    std::uint32_t items_end = 0;
    std::byte inline_bytes[kInline];  // arguments, then result
    // Worker, of a chunk; zero at first. Other tasks leave this cache line alone.
    std::atomic<std::uint64_t> started_ns{0};     // if `timed`: when the item was begun
    std::atomic<std::uint64_t> progress{0};       // see ChunkProgress
    std::atomic<std::uint64_t> partial_block{0};  // where the result is being written; 0: inline
};
static_assert(sizeof(TaskSlot) == 2 * kCacheLine && std::is_standard_layout_v<TaskSlot>);
static_assert(std::atomic<SlotState>::is_always_lock_free);

// The sum of R5: each word of the content times an odd number of its own place. The words do not
// wait for each other, so it costs some nanoseconds; one that differs is seen but for one of some
// thousand million times. (Multilinear hashing: Carter and Wegman, "Universal Classes of Hash
// Functions", 1979.)
class SlotSum {
  public:
    // Of a task, a TaskSlot's or a SlotTask's; `content` is what lies in the slot, without what has
    // a block.
    template <class Task>
    static std::uint32_t of_task(const Task& slot, const std::byte* content) {
        std::uint64_t numbers =
            slot.fds | std::uint64_t(slot.attempt) << 32 | std::uint64_t(slot.timed) << 48;
        std::uint64_t items = slot.items_begin | std::uint64_t(slot.items_end) << 32;
        std::uint64_t sum = pair<0>(slot.serial, slot.offset) +
                            pair<2>(slot.module, slot.signature) + pair<4>(slot.block, slot.size) +
                            pair<6>(numbers, items);
        return finish(slot.block ? sum : add(sum, content, slot.size));
    }
    // Of the reply to a task with that number.
    struct Reply {
        std::uint64_t serial;
        ReplyKind kind;
        std::uint64_t block, size, begun_ns, duration_ns;
    };
    static std::uint32_t of_reply(const Reply& reply, const std::byte* content) {
        std::uint64_t sum = pair<0>(reply.serial, reply.begun_ns) +
                            pair<2>(reply.block, reply.size) +
                            pair<4>(reply.duration_ns, static_cast<std::uint64_t>(reply.kind));
        return finish(reply.block ? sum : add(sum, content, reply.size));
    }

  private:
    static constexpr std::size_t kOfContent = 8;
    static constexpr std::size_t kWords = kOfContent + (TaskSlot::kInline + 7) / 8;
    static constexpr std::array<std::uint64_t, kWords> kKeys = [] {
        std::array<std::uint64_t, kWords> keys{};
        std::uint64_t x = 0;  // SplitMix64: Steele, Lea, Flood, OOPSLA 2014
        for (std::uint64_t& key : keys) {
            std::uint64_t z = x += 0x9e3779b97f4a7c15u;
            z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
            z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
            key = (z ^ (z >> 31)) | 1;
        }
        return keys;
    }();

    // The two in one multiplication would hide the highest bit of one where the other is even.
    template <std::size_t n>
    static std::uint64_t pair(std::uint64_t a, std::uint64_t b) {
        return a * kKeys[n] + b * kKeys[n + 1];
    }
    template <class Word>
    static std::uint64_t load(const std::byte* at) {
        Word word;
        std::memcpy(&word, at, sizeof word);
        return word;
    }
    // The last bytes are read as they were written, in parts: a load that is wider than the store
    // before it waits for that.
    static std::uint64_t add(std::uint64_t sum, const std::byte* at, std::uint64_t size) {
        if (size > TaskSlot::kInline) return sum;  // nonsense: its own word tells
        const std::uint64_t* key = kKeys.data() + kOfContent;
        for (; size >= 8; size -= 8, at += 8) sum += load<std::uint64_t>(at) * *key++;
        std::uint64_t last = 0;
        if (size & 4) {
            last = load<std::uint32_t>(at);
            at += 4;
        }
        if (size & 2) {
            last = last << 16 | load<std::uint16_t>(at);
            at += 2;
        }
        if (size & 1) last = last << 8 | load<std::uint8_t>(at);
        return size ? sum + last * *key : sum;
    }
    static std::uint32_t finish(std::uint64_t sum) { return static_cast<std::uint32_t>(sum >> 32); }
};

// Nothing, if more are said to be there than can be. By words: most arguments and results are one
// or two of them.
inline void copy_inline(std::byte (&to)[TaskSlot::kInline], const TaskSlot& slot,
                        std::uint64_t size) {
    static_assert(TaskSlot::kInline % 8 == 0);
    if (size > TaskSlot::kInline) return;
    for (std::size_t at = 0; at < size; at += 8) std::memcpy(to + at, slot.inline_bytes + at, 8);
}

// A task as its worker takes it, copied out of its slot: what lies there may change while we look,
// and what is checked must be what is run.
struct SlotTask {
    explicit SlotTask(const TaskSlot& slot)
        : sum(slot.sum),
          serial(slot.serial),
          module(slot.module),
          offset(slot.offset),
          signature(slot.signature),
          block(slot.block),
          size(slot.size),
          fds(slot.fds),
          attempt(slot.attempt),
          timed(slot.timed),
          items_begin(slot.items_begin),
          items_end(slot.items_end) {
        if (!block) copy_inline(inline_bytes, slot, size);
    }
    bool is_sound() const {
        return sum == SlotSum::of_task(*this, inline_bytes) && (block || size <= TaskSlot::kInline);
    }

    const std::uint32_t sum;
    const std::uint64_t serial, module, offset, signature, block, size;
    const std::uint32_t fds;
    const std::uint16_t attempt;
    const std::uint8_t timed;
    const std::uint32_t items_begin, items_end;
    alignas(16) std::byte inline_bytes[TaskSlot::kInline];  // `size` of them, if there is no block
};

// What lies in shared memory for one worker, before its slots.
struct RingHeader {
    static constexpr std::uint64_t kMagic = 0x676e6972647473;
    static constexpr std::uint32_t kFreeEntries = 512;

    std::uint64_t magic = kMagic;
    std::uint32_t capacity = 0;  // slots, a power of two

    // The number of a task that is to stop.
    alignas(kCacheLine) std::atomic<std::uint64_t> stop_number{0};  // parent

    alignas(kCacheLine) EventCount doorbell;  // the worker sleeps here (participant 0)

    // Result blocks that the parent has finished with: a single-producer single-consumer queue.
    alignas(kCacheLine) std::atomic<std::uint64_t> freed{0};   // parent: so many, for the worker
    alignas(kCacheLine) std::atomic<std::uint64_t> reused{0};  // worker: so many, for the parent
    struct FreeBlock {
        std::uint64_t block, check;  // see check_of
    };
    alignas(kCacheLine) FreeBlock free_blocks[kFreeEntries] = {};
    // Of a block that is handed back as the n-th: neither another block nor an entry of another
    // round has it.
    static std::uint64_t check_of(std::uint64_t block, std::uint64_t n) {
        return block * 0x9e3779b97f4a7c15u + n * 0xbf58476d1ce4e5b9u + 1;
    }

    static std::size_t bytes_for(std::uint32_t capacity) {
        return sizeof(RingHeader) + capacity * sizeof(TaskSlot);
    }
    TaskSlot* slots() { return reinterpret_cast<TaskSlot*>(this + 1); }
};
static_assert(sizeof(RingHeader) % kCacheLine == 0);

// The parent's side. Threads: the caller serialises.
class RingParent {
  public:
    RingParent() = default;
    RingParent(RingHeader* header, std::uint32_t capacity)
        : header_(header), slots_(header->slots()), mask_(capacity - 1) {}

    std::uint64_t published() const { return published_; }
    std::uint64_t consumed() const { return consumed_; }
    std::uint64_t in_flight() const { return published_ - consumed_; }
    std::uint32_t capacity() const { return mask_ + 1; }
    bool full() const { return in_flight() > mask_; }
    std::uint32_t position(std::uint64_t index) const {
        return static_cast<std::uint32_t>(index) & mask_;
    }
    TaskSlot& slot(std::uint64_t index) { return slots_[index & mask_]; }

    // The slot to fill next; publish() makes it visible. Requires: !full().
    TaskSlot& next() { return slot(published_); }
    void publish() {
        next().state.store(SlotState::ready, std::memory_order_release);  // SYNC(slot): with claim
        ++published_;
    }
    void ask_to_stop(std::uint64_t serial) {
        header_->stop_number.store(serial, std::memory_order_relaxed);  // a request, no more
        // The task may sleep until then (this_task::sleep_for).
        if (serial != 0) sys::futex_wake(sys::low_half(header_->stop_number), INT_MAX);
    }
    void wake() { header_->doorbell.notify_all(); }
    bool sleeping() const { return header_->doorbell.has_sleepers(); }

    // The state of the oldest slot; empty if nothing is in flight.
    SlotState front_state() {
        return consumed_ == published_ ? SlotState::empty
                                       : slot(consumed_).state.load(std::memory_order_acquire);
    }
    // The oldest slot if it is done; its content is the worker's word: check it. Also if its state
    // is one that it cannot have (see is_done).
    TaskSlot* front_done() {
        if (consumed_ == published_) return nullptr;
        TaskSlot& front = slot(consumed_);
        // SYNC(slot): pairs with RingWorker::complete
        SlotState state = front.state.load(std::memory_order_acquire);
        return state == SlotState::ready || state == SlotState::taken ? nullptr : &front;
    }
    static bool is_done(const TaskSlot& front) {  // relaxed: after front_done()
        return front.state.load(std::memory_order_relaxed) == SlotState::done;
    }
    void release_front() {
        slot(consumed_).state.store(SlotState::empty, std::memory_order_relaxed);  // R1: ours
        ++consumed_;
    }

    // Takes the newest task back. False: the worker has taken it, or nothing is in flight.
    bool take_back_last() {
        if (consumed_ == published_) return false;
        SlotState expected = SlotState::ready;
        // Relaxed: nothing of the worker's is read, and of the slot only the sum is written.
        if (!slot(published_ - 1)
                 .state.compare_exchange_strong(expected, SlotState::empty,
                                                std::memory_order_relaxed))
            return false;
        slot(--published_).sum ^= 1;  // R2
        return true;
    }

    // Hands a result block back. False: the queue is full, try again later.
    bool give_back(std::uint64_t block) {
        // SYNC(free): acquire pairs with the release in RingWorker::take_freed.
        std::uint64_t waiting = freed_ - header_->reused.load(std::memory_order_acquire);
        if (waiting >= RingHeader::kFreeEntries) {
            sound_ = sound_ && waiting == RingHeader::kFreeEntries;
            return false;
        }
        header_->free_blocks[freed_ % RingHeader::kFreeEntries] = {
            block, RingHeader::check_of(block, freed_)};
        header_->freed.store(++freed_, std::memory_order_release);
        return true;
    }
    // False: the worker's cursor of that queue is one that it cannot have.
    bool is_sound() const { return sound_; }

  private:
    RingHeader* header_ = nullptr;
    TaskSlot* slots_ = nullptr;
    std::uint32_t mask_ = 0;
    std::uint64_t published_ = 0;  // next index to publish
    std::uint64_t consumed_ = 0;   // oldest index not yet consumed
    std::uint64_t freed_ = 0;      // blocks handed back
    bool sound_ = true;
};

// The worker's side: one thread.
class RingWorker {
  public:
    RingWorker(RingHeader* header, std::uint32_t capacity)
        : header_(header), slots_(header->slots()), mask_(capacity - 1) {}

    // Takes the next task if there is one.
    TaskSlot* claim() {
        TaskSlot& slot = slots_[next_ & mask_];
        // Relaxed: a hint, the CAS decides.
        if (slot.state.load(std::memory_order_relaxed) != SlotState::ready) return nullptr;
        // SYNC(slot): acquire pairs with publish. The content is read after the CAS only: the slot
        // may have been taken back and filled anew since the load.
        SlotState expected = SlotState::ready;
        return slot.state.compare_exchange_strong(expected, SlotState::taken,
                                                  std::memory_order_acquire)
                   ? &slot
                   : nullptr;
    }
    // Publishes the reply; the slot is the parent's again. False: somebody has changed the state of
    // the slot, which was this worker's, so nobody can tell any more whose it is.
    [[nodiscard]] bool complete(TaskSlot& slot) {
        // Relaxed: nobody else may write it now (R1).
        if (slot.state.load(std::memory_order_relaxed) != SlotState::taken) return false;
        slot.state.store(SlotState::done, std::memory_order_release);  // SYNC(slot)
        ++next_;
        return true;
    }
    // The next slot has a task, or the one so many after it (a hint: it may be taken back).
    bool has_work(std::uint32_t after = 0) const {
        return slots_[(next_ + after) & mask_].state.load(std::memory_order_relaxed) ==
               SlotState::ready;
    }
    // The parent has consumed everything that was completed (a hint).
    bool all_consumed() const {
        return next_ == 0 ||
               slots_[(next_ - 1) & mask_].state.load(std::memory_order_relaxed) != SlotState::done;
    }
    // It has not yet consumed what was completed so many tasks ago (a hint).
    bool parent_lags(std::uint32_t tasks) const {
        return next_ >= tasks && slots_[(next_ - tasks) & mask_].state.load(
                                     std::memory_order_relaxed) == SlotState::done;
    }
    const std::atomic<std::uint64_t>& stop_number() const { return header_->stop_number; }
    EventCount& doorbell() { return header_->doorbell; }

    // The next result block that was handed back, or 0; kNonsense if the parent cannot have written
    // what stands there.
    static constexpr std::uint64_t kNonsense = ~std::uint64_t(0);
    std::uint64_t take_freed() {
        std::uint64_t waiting = header_->freed.load(std::memory_order_acquire) - reused_;
        if (waiting == 0) return 0;  // SYNC(free)
        if (waiting > RingHeader::kFreeEntries) return kNonsense;
        auto [block, check] = header_->free_blocks[reused_ % RingHeader::kFreeEntries];
        if (block == 0 || check != RingHeader::check_of(block, reused_)) return kNonsense;
        header_->reused.store(++reused_, std::memory_order_release);
        return block;
    }

  private:
    RingHeader* header_;
    TaskSlot* slots_;
    std::uint32_t mask_;
    std::uint64_t next_ = 0;
    std::uint64_t reused_ = 0;  // blocks taken back
};

}  // namespace sidestep
