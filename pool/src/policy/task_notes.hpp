// What Insight is told of a task that left its lane.
#pragma once

#include <sidestep/detail/pool_task.hpp>

#include "insight/insight.hpp"
#include "lanes/lane.hpp"
#include "task/failure_kind.hpp"

namespace sidestep::inline v0::detail {

// It ran to its end. Nothing hangs on the times that its worker wrote: they are shown.
void note_reply(Insight& insight, const Lane& lane, PoolTask& task,
                const TaskReply& reply) POOL_LOCKED;
// It did not come to its end: its worker died, or it is stopped.
void note_stopped(Insight& insight, const Lane& lane, PoolTask& task, FailureKind kind) POOL_LOCKED;

}  // namespace sidestep::detail
