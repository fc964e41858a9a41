// Future<T>: the result of a task, when it is there.
//
// Ownership: a small handle; copies refer to the same task. It may outlive its pool. A large result
//            stays in shared memory until the last handle goes; get() makes a fresh copy each time.
// Threads:   thread-safe.
// Peer death: the worker's death while it ran the task is the result WorkerLost; nothing waits for
//            ever.
// Errors:    get() throws what the task threw, by type (remote_error.hpp), or WorkerLost,
// BrokenPool,
//            CancelledError (pool_errors.hpp). A result that cannot be read back throws what its
//            `serialize` threw, in get(), and affects nothing else.
//
// | state \ call     | ready | wait_for      | get            | cancel                       |
// |------------------|-------|---------------|----------------|------------------------------|
// | waiting          | false | waits         | waits          | true; becomes cancelled      |
// | running          | false | waits         | waits          | false                        |
// | finished         | true  | true at once  | value or error | false                        |
// | cancelled        | true  | true at once  | CancelledError | true                         |
// | empty (default)  | std::logic_error from every call but valid()                            |
#pragma once

#include <chrono>
#include <stdexcept>
#include <type_traits>

#include <sidestep/pool_errors.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/task_state.hpp>

namespace sidestep {

namespace detail {
[[noreturn]] void throw_empty_future();
[[noreturn]] void throw_get_timeout(std::chrono::nanoseconds timeout);
Deadline deadline_after(std::chrono::nanoseconds timeout);  // saturates; negative: already past

template <class T>
T decode_result(const TaskState& task) {
    InputArchive archive(task.result());
    if constexpr (std::is_void_v<T>) {
        archive.expect_end();
    } else {
        T value{};
        archive(value);
        archive.expect_end();
        return value;
    }
}
}  // namespace detail

template <class T>
class Future {
  public:
    Future() = default;
    explicit Future(detail::TaskRef task) : task_(std::move(task)) {}

    bool valid() const { return static_cast<bool>(task_); }

    // The result. Blocks until it is there.
    T get() const {
        task().wait({});
        return detail::decode_result<T>(*task_);
    }
    // The same; throws TimeoutError if it is not there in time, and the task goes on.
    T get(std::chrono::nanoseconds timeout) const {
        if (!wait_for(timeout)) detail::throw_get_timeout(timeout);
        return detail::decode_result<T>(*task_);
    }
    void wait() const { task().wait({}); }
    // True: the result is there. Zero or less only looks.
    [[nodiscard]] bool wait_for(std::chrono::nanoseconds timeout) const {
        return task().wait(detail::deadline_after(timeout));
    }
    [[nodiscard]] bool ready() const { return task().poll(); }

    // What get() would throw; null if there is a value. Blocks until it is known.
    std::exception_ptr exception() const {
        task().wait({});
        return task_->error();
    }
    // Takes the task back if no worker has begun it. True: it will not run.
    bool cancel() { return task().cancel(); }

  private:
    detail::TaskState& task() const {
        if (!task_) detail::throw_empty_future();
        return *task_;
    }
    detail::TaskRef task_;
};

}  // namespace sidestep
