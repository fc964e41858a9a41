// A task, as Insight is told of it.
#pragma once

#include <sidestep/detail/pool_task.hpp>
#include <sidestep/pool_errors.hpp>

#include "insight/insight.hpp"

namespace sidestep::inline v0::detail {

inline TaskFacts facts_of(const PoolTask& task) {
    return {task.serial,
            task.items().first + task.items().begin,
            task.items().end - task.items().begin,
            static_cast<std::uint16_t>(task.failures.attempts + 1),
            task.entry,
            task.function,
            task.options ? &task.options->name : nullptr};
}

// For an error about it: which it is, and what it is called.
inline void tell_task(TaskError::Details& details, const PoolTask& task) {
    details.task = task.serial;
    details.task_type = describe_entry(*task.entry);
    details.function = task.function;
    if (task.options) details.name = task.options->name;
}

}  // namespace sidestep::detail
