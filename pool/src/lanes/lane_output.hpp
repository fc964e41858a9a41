// What tasks wrote, from the files of their worker to the task.
#pragma once

#include <string>

#include <sidestep/detail/pool_task.hpp>

#include "worker/output_capture.hpp"
#include "worker/worker_memory.hpp"

namespace sidestep::inline v0::detail {

// The task at the front of the ring is done. None: one that was stopped, or the request to leave.
void take_output(WorkerOutput& output, const WorkerMemory& memory, PoolTask* task) noexcept;
// The task at the front is ended while it runs.
void keep_output(const WorkerOutput& output, PoolTask& task) noexcept;
// What it wrote last to stderr, for a message; or empty.
std::string last_words(const TaskOutput& output);

}  // namespace sidestep::detail
