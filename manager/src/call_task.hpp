// A call that was sent to a server of objects: what its Future refers to.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/detail/held_object.hpp>
#include <sidestep/detail/local_task.hpp>
#include <sidestep/pool_errors.hpp>
#include <sidestep/task.hpp>

#include "object_frame.hpp"

namespace sidestep::inline v0::detail {

class ServerLink;

class CallTask;

// How a link tells of a death without keeping who waits for it. (A callback keeps its Future.)
struct DeathWatch {
    // Recursive: who tells may be the last to have the task, by a callback that it has passed on.
    std::recursive_mutex mutex;
    CallTask* task;  // guarded by mutex; null: nobody has it any more
};

class CallTask final : public LocalTaskBase {
  public:
    CallTask(std::shared_ptr<ServerLink> link, std::uint64_t object, std::uint64_t caller,
             const CallKind* kind);
    ~CallTask() override;

    std::uint64_t object() const { return object_; }
    std::uint64_t caller() const { return caller_; }
    std::string method() const;
    // "Account::crash()": without what it returns.
    std::string short_method() const;
    // Once, before it is sent.
    void set_limits(const CallLimits& limits) { limits_ = limits; }
    // It is no call, but waits for the server's death. Once, before others have it.
    void watch_by(std::shared_ptr<DeathWatch> watch) { watch_ = std::move(watch); }
    // It waits for a task of that pool. Before others have it.
    void belong_to_pool(std::shared_ptr<NestedPool> pool) { pool_ = std::move(pool); }
    // By who reads: whether what failed (it crashed the actor) is to be run again.
    bool take_attempt(bool crashed);
    // For its error: which attempt failed, and whether another one was allowed.
    void tell_attempts(TaskError::Details& details, bool crashed) const;
    std::chrono::nanoseconds timeout() const { return limits_.timeout; }
    void set_request(std::uint64_t request) { request_ = request; }
    // kind: what the bytes are: value, error or failure.
    void answer(std::vector<std::byte> bytes, FrameKind kind = FrameKind::value);
    void lose(std::exception_ptr error);
    // The server has taken it back.
    void end_cancelled();

    // Whoever waits reads the connection.
    bool wait(const Deadline& deadline) override;
    bool poll() override;
    // Nobody waits: a thread reads it until the calls are answered.
    bool listen(const std::shared_ptr<CompletionQueue>& queue, std::size_t tag) override;
    bool add_callback(std::function<void()>& callback) override;
    // Asks the server: true if it had not begun. What runs is asked to stop; a pool's task ends.
    bool cancel() override;
    bool cancelled() const override;
    const void* value() const override;
    std::span<const std::byte> result() const override { return bytes_; }
    std::exception_ptr error() const override;
    std::shared_ptr<NestedPool> nested_pool() const override { return pool_; }

  private:
    std::exception_ptr decode_error() const;
    std::exception_ptr read_error() const;

    // Constant after construction.
    const std::shared_ptr<ServerLink> link_;
    const std::uint64_t object_, caller_;
    const TaskEntry* const entry_;       // null: no call of a user's
    const char* const method_;           // null: a function
    std::shared_ptr<DeathWatch> watch_;  // null: it is a call
    std::shared_ptr<NestedPool> pool_;   // null: it runs in the object
    CallLimits limits_;
    unsigned failed_ = 0, crashes_ = 0;      // attempts before this one; the reader's
    std::atomic<std::uint64_t> request_{0};  // 0: it is not sent (yet)
    // Constant once done().
    bool cancelled_ = false;
    std::vector<std::byte> bytes_;  // of the value, or the error
    FrameKind kind_ = FrameKind::value;
    std::exception_ptr lost_;

    mutable std::once_flag decoded_;
    mutable std::exception_ptr error_;
    mutable std::atomic<bool> seen_{false};  // relaxed: a flag by itself
};

}  // namespace sidestep::detail
