// Where a task was when its time was up: its worker was asked, and tells it in the memory that it
// shares with its parent (crash_stack.hpp). It is read when somebody wants to know, or when the
// worker is through with the task: an error that is kept must not keep all of that memory.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <sidestep/pool_errors.hpp>

#include "worker/worker_memory.hpp"

namespace sidestep::inline v0::detail {

// Threads: thread-safe.
class AskedStack {
  public:
    AskedStack(std::shared_ptr<WorkerMemory> memory, std::uint64_t question)
        : memory_(std::move(memory)), question_(question) {}

    // The innermost first. Empty: the worker did not tell. If it may tell still, that is waited
    // for, for a moment: nobody else waits for it.
    std::vector<const void*> addresses() const;
    // False: the worker may still tell, and addresses() would wait for it.
    bool is_there() const;
    // No answer that is not there will come any more.
    void settle() const noexcept;

  private:
    mutable std::mutex mutex_;
    mutable std::shared_ptr<WorkerMemory> memory_;  // guarded by mutex_; null: it is settled
    mutable StackRecord stack_;                     // likewise; since then
    const std::uint64_t question_;
};

// That of the error, whichever way it came.
std::vector<const void*> stack_of(const TaskError::Details& details);

}  // namespace sidestep::detail
