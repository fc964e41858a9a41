// Asks one worker after another, in the same lane, where its task is.
#pragma once

#include <cstdint>
#include <memory>

#include "lanes/worker_process.hpp"
#include "worker/asked_stack.hpp"
#include "worker/worker_memory.hpp"

namespace sidestep::inline v0::detail {

// Threads: the caller serialises. The process outlives this object.
class StackQuestions {
  public:
    explicit StackQuestions(const WorkerProcess& process) : process_(process) {}

    // From now on a new worker is asked.
    void restart(std::shared_ptr<WorkerMemory> memory) noexcept;
    // The worker's answer to the next question, which ask() puts. Throws std::bad_alloc.
    std::shared_ptr<const AskedStack> expect();
    // Requires: expect() was called. The signal ends what the task waits in.
    void ask() noexcept;
    // The worker is through with the task: it answers no more.
    void settle() noexcept;

  private:
    const WorkerProcess& process_;
    std::shared_ptr<WorkerMemory> memory_;
    std::shared_ptr<const AskedStack> answer_;  // that is expected
    std::uint64_t asked_ = 0;                   // questions, of this worker
};

}  // namespace sidestep::detail
