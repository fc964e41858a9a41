// A call that was sent to a server of objects: what its Future refers to.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include <sidestep/detail/held_object.hpp>
#include <sidestep/detail/local_task.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

class ServerLink;

class CallTask final : public LocalTaskBase {
  public:
    CallTask(std::shared_ptr<ServerLink> link, std::uint64_t object, std::uint64_t caller,
             const CallKind* kind);
    ~CallTask() override;

    std::uint64_t object() const { return object_; }
    std::uint64_t caller() const { return caller_; }
    std::string method() const;
    void answer(std::vector<std::byte> bytes);
    void answer_error(std::vector<std::byte> bytes);
    void lose(std::exception_ptr error);

    // Whoever waits reads the connection.
    bool wait(const Deadline& deadline) override;
    bool poll() override;
    // Nobody waits: a thread reads it until the calls are answered.
    bool listen(const std::shared_ptr<CompletionQueue>& queue, std::size_t tag) override;
    bool add_callback(std::function<void()>& callback) override;
    const void* value() const override;
    std::span<const std::byte> result() const override { return bytes_; }
    std::exception_ptr error() const override;

  private:
    std::exception_ptr decode_error() const;

    // Constant after construction.
    const std::shared_ptr<ServerLink> link_;
    const std::uint64_t object_, caller_;
    const TaskEntry* const entry_;  // null: no call of a user's
    const char* const method_;      // null: a function
    // Constant once done().
    std::vector<std::byte> bytes_;  // of the value, or the error
    bool threw_ = false;
    std::exception_ptr lost_;

    mutable std::once_flag decoded_;
    mutable std::exception_ptr error_;
    mutable std::atomic<bool> seen_{false};  // relaxed: a flag by itself
};

}  // namespace sidestep::detail
