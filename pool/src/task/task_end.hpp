// The first and the last moment of a pool's tasks.
#pragma once

#include <cstdint>
#include <exception>

#include <sidestep/detail/pool_task.hpp>

#include "memory/arena.hpp"
#include "service_thread.hpp"
#include "task/hold.hpp"
#include "task/token_gate.hpp"

namespace sidestep::inline v0::detail {

// Numbers tasks, and ends each of them exactly once: from then on its future has what became of it.
class TaskEnd {
  public:
    // All outlive this object: where arguments lie, which a task that is done needs no more, where
    // callbacks run, and whose tokens tasks have (null: none has any).
    TaskEnd(Arena& arguments, CallbackThread& callbacks, TokenGate* tokens = nullptr)
        : arguments_(arguments), callbacks_(callbacks), tokens_(tokens) {}

    // The pool has one more task. (From the first one on: numbers are never reused. One that was
    // made on another host has its number from there.)
    void begin(PoolTask& task) POOL_LOCKED {
        ++begun_;
        if (task.serial == 0) task.serial = begun_;
    }
    // The task has its result, and is in no list. The pool's reference to it is dropped later.
    void complete(PoolTask* task, Hold& hold) noexcept POOL_LOCKED;
    void fail(PoolTask* task, std::exception_ptr error, Hold& hold) noexcept POOL_LOCKED;
    void cancel(PoolTask* task, const std::exception_ptr& error, Hold& hold) noexcept POOL_LOCKED;

    // What a task had while it ran; refill() gives them to those that wait.
    void free_tokens(TokenUse& use) noexcept POOL_LOCKED { tokens_->give_back(use); }

    std::uint64_t begun() const POOL_LOCKED { return begun_; }
    std::uint64_t completed() const POOL_LOCKED { return completed_; }
    std::uint64_t outstanding() const POOL_LOCKED { return begun_ - completed_; }
    std::uint64_t failed() const POOL_LOCKED { return failed_; }  // with an error, not cancelled
    std::uint64_t cancelled() const POOL_LOCKED { return cancelled_; }

  private:
    Arena& arguments_ POOL_GUARDED;
    CallbackThread& callbacks_;
    TokenGate* const tokens_;
    std::uint64_t begun_ POOL_GUARDED = 0;
    std::uint64_t completed_ POOL_GUARDED = 0;
    std::uint64_t failed_ POOL_GUARDED = 0;
    std::uint64_t cancelled_ POOL_GUARDED = 0;
};

}  // namespace sidestep::detail
