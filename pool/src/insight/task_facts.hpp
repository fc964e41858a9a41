// A task, as Insight is told of it.
#pragma once

#include <sidestep/detail/pool_task.hpp>

#include "insight/insight.hpp"

namespace sidestep::inline v0::detail {

inline TaskFacts facts_of(const PoolTask& task) {
    return {task.serial,
            task.items.first + task.items.begin,
            task.items.end - task.items.begin,
            static_cast<std::uint16_t>(task.failures.attempts + 1),
            task.entry,
            task.function,
            task.options ? &task.options->name : nullptr};
}

}  // namespace sidestep::detail
