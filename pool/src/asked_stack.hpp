// Where a task was when its time was up: its worker was asked, and tells it in the memory that it
// shares with its parent (crash_stack.hpp). It is read when somebody wants to know.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <sidestep/pool_errors.hpp>

#include "worker_memory.hpp"

namespace sidestep::inline v0::detail {

struct AskedStack {
    // The innermost first. Empty: the worker did not tell. One that has not told yet is waited for,
    // for a moment: nobody else waits for it.
    std::vector<const void*> addresses() const;

    std::shared_ptr<WorkerMemory> memory;
    std::uint64_t question = 0;
};

// That of the error, whichever way it came.
std::vector<const void*> stack_of(const TaskError::Details& details);

}  // namespace sidestep::detail
