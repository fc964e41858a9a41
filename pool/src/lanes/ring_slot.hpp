// A task in a slot of a ring, and what a worker wrote there: copied, and checked, before anything
// of it is believed (I7 in docs/architecture.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include <sidestep/detail/pool_task.hpp>

#include "lanes/lane.hpp"
#include "memory/segment.hpp"
#include "queue/task_ring.hpp"
#include "worker/worker_meter.hpp"

namespace sidestep::inline v0::detail {

// What a worker wrote into a slot, copied, with what lies there of the result: it may change while
// we look, and what is checked must be what is taken.
struct SlotReply {
    explicit SlotReply(const TaskSlot& slot) : SlotReply(slot, slot.reply) {}

    const ReplyKind raw_kind, kind;
    const bool lacks_fds;
    const std::uint32_t sum;
    const std::uint64_t serial, block, size, begun_ns, duration_ns;
    alignas(16) std::byte inline_bytes[TaskSlot::kInline];  // `size` of them, if there is no block

    // It makes sense. No task: one that was asked to stop, or the request to leave.
    bool is_sound(const PoolTask* task, std::size_t results_size) const;

  private:
    SlotReply(const TaskSlot& slot, ReplyKind what)
        : raw_kind(what),
          kind(what == ReplyKind::lacks_fds ? ReplyKind::error : what),
          lacks_fds(what == ReplyKind::lacks_fds),
          sum(slot.sum),
          serial(slot.serial),
          block(slot.block),
          size(slot.size),
          begun_ns(slot.begun_ns),
          duration_ns(slot.duration_ns) {
        if (!block) copy_inline(inline_bytes, slot, size);
    }
};

void fill_slot(TaskSlot& slot, const PoolTask& task, const PoolTask::ArgumentView& arguments);
// The request to leave, which is no task.
void fill_with_request_to_leave(TaskSlot& slot);
// What the words of a living worker, or of a dead one, say of the task at its front cannot be: a
// task has written over them.
bool contradicts_itself(RingParent& ring, const WorkerWords& words, bool is_alive = true);
// Copies the finished items' results, of the task at the front, out of a worker's memory. Nothing:
// what it wrote makes no sense, or there is no memory for the copy.
std::optional<PartialResult> copy_partial(RingParent& ring, const WorkerWords& words,
                                          const Segment& results, std::uint64_t most) noexcept;

}  // namespace sidestep::detail
