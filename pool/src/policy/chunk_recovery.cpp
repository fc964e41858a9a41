#include "policy/chunk_recovery.hpp"

#include <memory>
#include <optional>
#include <utility>

#include "spare_errors.hpp"

namespace sidestep::inline v0::detail {

std::optional<PartialResult> ChunkRecovery::finished(Lane& lane, const PoolTask& task) noexcept {
    if (!task.is_chunk()) return {};
    return lane.partial(task.items().end - task.items().begin);
}

bool ChunkRecovery::recover(PoolTask* task, std::optional<PartialResult> partial, FailureKind kind,
                            const std::exception_ptr& error, Hold& hold) noexcept try {
    if (!partial) return false;
    PoolTaskRef rest = split_at(task, std::move(*partial), kind, error, hold);
    if (rest && rooms_.life.interrupted())
        rooms_.task_end.cancel(rest.get(), spare_errors().interrupted, hold);
    else if (rest)
        rooms_.dispatcher.backlog().push_back(rest.get());
    return true;
} catch (...) {
    return false;
}

void ChunkRecovery::add_part(const PoolTaskRef& task) {
    rooms_.task_end.begin(*task);
    (void)PoolTaskRef(task).release();  // the pool's own reference, until it is done
}

PoolTaskRef ChunkRecovery::split_at(PoolTask* task, PartialResult partial, FailureKind kind,
                                    const std::exception_ptr& error, Hold& hold) {
    PoolTask::Items& items = task->more->items;
    auto take_results = [&] {
        items.done = partial.items;
        task->bytes.take(std::move(partial.bytes));
        task->has_value = true;
    };
    std::uint32_t item = items.begin + partial.items;
    if (item == items.end) {  // all was done, but for saying so
        take_results();
        rooms_.task_end.complete(task, hold);
        return {};
    }
    auto split = std::make_unique<PoolTask::Split>();
    if (item + 1 < items.end) split->rest = task->part(item + 1, items.end);
    if (retries_.may_retry(*task, kind)) {
        split->again = task->part(item, item + 1);
        split->again->failures = task->failures;
    } else {
        split->error = error;
    }
    task->keep_arguments();  // its worker may still read them; from here on nothing throws
    take_results();
    PoolTaskRef again = split->again, rest = split->rest;
    for (const PoolTaskRef& part : {again, rest}) {
        if (!part) continue;
        part->more->sink = task->sink();
        add_part(part);
    }
    task->more->parts = std::move(split);
    rooms_.task_end.complete(task, hold);
    if (again) retries_.retry_or_fail(again.get(), kind, error, hold);
    return rest;
}

}  // namespace sidestep::detail
