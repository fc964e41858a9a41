#include "lanes/ring_slot.hpp"

#include <cstring>
#include <new>

#include <sidestep/detail/chunk.hpp>

#include "memory/arena.hpp"
#include "queue/partial_result.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

bool SlotReply::is_sound(const PoolTask* task, std::size_t results_size) const {
    if (task && serial != task->serial) return false;
    if (sum !=
        SlotSum::of_reply({serial, raw_kind, block, size, begun_ns, duration_ns}, inline_bytes))
        return false;
    bool fits = block == 0 ? size <= PoolTask::kInline
                           : Arena::is_valid(block, results_size) && size <= Arena::capacity(block);
    if (!fits) return false;
    if (kind == ReplyKind::stopped) return !task;  // only the parent asks a task to stop
    return kind == ReplyKind::value || kind == ReplyKind::error;
}

void fill_slot(TaskSlot& slot, const PoolTask& task, const PoolTask::ArgumentView& arguments) {
    slot.serial = task.serial;
    slot.module = task.id->where.module;
    slot.offset = task.id->where.offset;
    slot.signature = task.id->signature;
    slot.size = arguments.size;
    slot.fds = static_cast<std::uint32_t>(arguments.fds->numbers.size());
    slot.attempt = static_cast<std::uint16_t>(task.failures.attempts + 1);
    const PoolTask::Items& items = task.items();
    const bool is_chunk = items.end > 0;
    slot.timed = is_chunk && task.options && task.options->timeout.count() > 0;
    slot.items_begin = items.begin;
    slot.items_end = items.end;
    slot.block = arguments.block;
    slot.reply = ReplyKind::none;
    if ((items.end | items.told) != 0) {  // relaxed: published with the rest
        slot.started_ns.store(0, std::memory_order_relaxed);
        slot.progress.store(0, std::memory_order_relaxed);
        slot.partial_block.store(0, std::memory_order_relaxed);
    }
    if (!slot.block) std::memcpy(slot.inline_bytes, arguments.inline_bytes, arguments.size);
    slot.sum = SlotSum::of_task(slot, arguments.inline_bytes);
}

void fill_with_request_to_leave(TaskSlot& slot) {
    slot.module = slot.serial = slot.block = slot.size = 0;
    slot.offset = kStopOffset;
    slot.sum = SlotSum::of_task(slot, slot.inline_bytes);
}

bool contradicts_itself(RingParent& ring, const WorkerWords& words, bool is_alive) {
    if (!ring.is_sound()) return true;
    if (ring.in_flight() == 0) return false;
    switch (ring.front_state()) {
        case SlotState::ready:  // but begun. Relaxed: at the second look it counts, or after death
            return words.begun.load(std::memory_order_relaxed) > ring.consumed();
        case SlotState::taken:  // but it sleeps
            return is_alive && ring.sleeping();
        default:
            return false;  // drain() judges it
    }
}

std::optional<PartialResult> copy_partial(RingParent& ring, const WorkerWords& words,
                                          const Segment& results, std::uint64_t most) noexcept try {
    static constexpr int kLooks = 64;  // it may still be running, and move them meanwhile
    const TaskSlot& slot = ring.slot(ring.consumed());
    std::uint64_t bits = (most + 7) / 8;
    for (int i = 0; i < kLooks; ++i) {
        PartialLook look(slot, words.partial_checks);
        // The worker vouches for its first words before it says that it has begun: until then they
        // are the parent's own. Relaxed: at worst it has begun since, and nothing is finished.
        bool begun = words.begun.load(std::memory_order_relaxed) > ring.consumed();
        if (!look.is_vouched_for() && (begun || look.progress != 0 || look.block != 0)) {
            if (look.is_unchanged()) return {};
            continue;  // these do not belong together
        }
        std::uint64_t items = ChunkProgress::items(look.progress),
                      size = ChunkProgress::bytes(look.progress);
        if (items == 0) return PartialResult{0, std::vector<std::byte>(bits)};
        bool is_possible = items <= most && size >= bits &&
                           (look.block == 0 ? size <= PoolTask::kInline
                                            : Arena::is_valid(look.block, results.size()) &&
                                                  size <= Arena::capacity(look.block));
        if (!is_possible) return {};
        const std::byte* data =
            look.block ? results.data() + Arena::offset(look.block) : slot.inline_bytes;
        PartialResult partial{static_cast<std::uint32_t>(items), std::vector<std::byte>(size)};
        copy_racing(partial.bytes.data(), data, size);
        if (look.still_holds()) return partial;
    }
    return {};
} catch (const std::bad_alloc&) {
    return {};
}

}  // namespace sidestep::detail
