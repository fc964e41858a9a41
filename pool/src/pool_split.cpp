// What befalls one item of a chunk costs that item alone: what the worker had finished is kept, the
// rest becomes a task of its own.
#include <new>

#include <sidestep/detail/chunk.hpp>

#include "pool_core.hpp"
#include "queue/partial_result.hpp"
#include "spare_errors.hpp"

namespace sidestep::inline v0::detail {

// A part of a chunk, for the stream that has that: also after close().
void PoolCore::submit_again(const PoolTaskRef& task) {
    require_owner();
    Hold hold(mutex_, *this);
    add_part(task);
    if (!life_.allows_retries() || life_.sealed())
        return task_end_.cancel(task.get(), spare_errors().ended, hold);
    if (!links_.empty()) {
        run_again(task.get(), hold);
        return refill(hold);
    }
    hold.unlock();
    pause_here(retry_pause(task->options_->retry, task->attempts_));
    run_inline(*task);
}

// The pool has one more task.
void PoolCore::add_part(const PoolTaskRef& task) {
    task_end_.begin(*task);
    (void)PoolTaskRef(task).release();  // the pool's own reference, until it is done
}

// Copies the finished items' results out of the worker's memory. Nothing: what it wrote makes no
// sense, or there is no memory for the copy.
std::optional<PoolCore::Partial> PoolCore::copy_partial(WorkerLink& link, std::uint64_t most) {
    static constexpr int kLooks = 8;  // it may still be running, and move them meanwhile
    const TaskSlot& slot = link.ring().slot(link.ring().consumed());
    const Segment& results = link.memory->results;
    std::uint64_t bits = (most + 7) / 8;
    for (int i = 0; i < kLooks; ++i) {
        PartialLook look(slot);
        std::uint64_t items = ChunkProgress::items(look.progress),
                      size = ChunkProgress::bytes(look.progress);
        if (items == 0) return Partial{0, std::vector<std::byte>(bits)};
        bool is_possible = items <= most && size >= bits &&
                           (look.block == 0 ? size <= PoolTask::kInline
                                            : Arena::is_valid(look.block, results.size()) &&
                                                  size <= Arena::capacity(look.block));
        if (!is_possible) {
            if (look.still_holds()) return {};
            continue;  // these two do not belong together
        }
        const std::byte* data =
            look.block ? results.data() + Arena::offset(look.block) : slot.inline_bytes;
        Partial partial{static_cast<std::uint32_t>(items), {}};
        try {
            partial.bytes.resize(size);
        } catch (const std::bad_alloc&) {
            return {};
        }
        copy_racing(partial.bytes.data(), data, size);
        if (look.still_holds()) return partial;
    }
    return {};
}

// The chunk at the front of the ring was ended while it ran. False: it is none, or cannot be split.
bool PoolCore::split(WorkerLink& link, PoolTask* task, FailureKind kind,
                     const std::exception_ptr& error, Hold& hold) {
    if (!task->is_chunk() || link.corrupt) return false;
    std::optional<Partial> partial = copy_partial(link, task->items_end_ - task->items_begin_);
    if (!partial) return false;
    auto take_results = [&] {
        task->items_done_ = partial->items;
        task->own_result_ = std::move(partial->bytes);
        task->result_size_ = task->own_result_.size();
        task->has_value_ = true;
    };
    std::uint32_t item = task->items_begin_ + partial->items;
    if (item == task->items_end_) {  // all was done, but for saying so
        take_results();
        task_end_.complete(task, hold);
        return true;
    }
    auto split = std::make_unique<PoolTask::Split>();
    if (item + 1 < task->items_end_) split->rest = task->part(item + 1, task->items_end_);
    if (may_retry(*task, kind)) {
        split->again = task->part(item, item + 1);
        split->again->attempts_ = task->attempts_;
        split->again->crashes_ = task->crashes_;
        split->again->out_of_memory_ = task->out_of_memory_;
    } else {
        split->error = error;
    }
    task->keep_arguments();  // its worker may still read them; from here on nothing throws
    take_results();
    PoolTaskRef again = split->again, rest = split->rest;
    for (const PoolTaskRef& part : {again, rest}) {
        if (!part) continue;
        part->sink_ = task->sink_;
        add_part(part);
    }
    task->split_ = std::move(split);
    task_end_.complete(task, hold);
    if (again) settle(again.get(), kind, error, hold);
    if (rest && life_.interrupted())
        task_end_.cancel(rest.get(), spare_errors().interrupted, hold);
    else if (rest)
        backlog_.push_back(rest.get());
    return true;
}

}  // namespace sidestep::detail
