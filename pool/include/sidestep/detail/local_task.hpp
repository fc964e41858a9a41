// A task that a thread of this process completes: a Promise's, or a ThreadPool's. Internal.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include <sidestep/detail/task_state.hpp>

namespace sidestep::inline v0::detail {

// How the thread of a task waits: for this task of its own (null: for whatever), and how somebody
// who has a nested task for it to run wakes it (null: it cannot be woken for that).
struct NestedWait {
    const TaskState* awaited = nullptr;
    std::function<void()> wake = nullptr;
};

// While it lives, the thread of a task waits, and another one, or another worker, may run in its
// place.
class NestedPool;
class ThreadPoolCore;
class WaitScope {
  public:
    explicit WaitScope(NestedWait wait = {});
    ~WaitScope();
    WaitScope(const WaitScope&) = delete;
    WaitScope& operator=(const WaitScope&) = delete;

    // It was woken to run a nested task (this_task::pool()); serve() does.
    bool is_called() const noexcept;
    void serve();

  private:
    const NestedWait wait_;
    NestedPool* nested_ = nullptr;
    ThreadPoolCore* threads_ = nullptr;
};

class LocalTaskBase : public TaskState {
  public:
    // Waiting becomes running. False: it was cancelled, and must not be run. Throws
    // InvalidStateError if it is not waiting.
    bool start();
    // Running, or waiting, becomes finished. Throws InvalidStateError if it was that before, or
    // cancelled.
    void fail(std::exception_ptr error);
    // The same, unless it is finished or cancelled.
    bool try_fail(std::exception_ptr error);
    // The same, as cancelled.
    bool fail_cancelled(std::exception_ptr error);
    // The same, and asks the task to stop.
    void time_out(std::exception_ptr error);
    // It is completed by a thread of this process, and in no forked copy of that.
    void belong_to(int process, std::weak_ptr<ThreadPoolCore> pool = {}) {
        owner_pid_ = process;
        pool_ = std::move(pool);
    }
    // See this_task::stop_requested(); a futex, for those that sleep.
    const std::atomic<std::uint32_t>& stop_flag() const { return stop_; }
    void ask_to_stop() noexcept;
    // While it runs, cancel() ends it too: its result is CancelledError at once, and stop() is
    // called. Before it is given to who may cancel it.
    void end_with(std::function<void()> stop) { stop_work_ = std::move(stop); }

    bool wait(const Deadline& deadline) override;
    bool poll() override { return done(); }
    bool running() override;
    bool cancel() override;
    bool cancelled() const override;
    bool listen(const std::shared_ptr<CompletionQueue>& queue, std::size_t tag) override;
    void forget(const std::shared_ptr<CompletionQueue>& queue) override;
    bool add_callback(std::function<void()>& callback) override;
    std::exception_ptr error() const override { return failure_; }
    std::shared_ptr<ThreadPoolCore> thread_pool() const override { return pool_.lock(); }

  protected:
    LocalTaskBase() = default;
    ~LocalTaskBase() override = default;
    // Calls store() if there is no result yet, and tells those who wait.
    void finish(const std::function<void()>& store);
    // The same; false: there is a result already, or it was cancelled.
    bool try_finish(const std::function<void()>& store);

  private:
    enum class State : unsigned char { waiting, running, cancelled, finished };
    void complete(std::unique_lock<std::mutex>& lock, State end);
    // Its mutex may be locked for ever, and nobody will complete it.
    bool is_forked_copy() const;

    std::weak_ptr<ThreadPoolCore> pool_;  // constant since it was submitted
    int owner_pid_ = 0;  // constant since it was submitted; 0: anybody may complete it
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    // Guarded by mutex_ until done(), constant from then on.
    State state_ = State::waiting;
    std::exception_ptr failure_;
    std::function<void()> stop_work_;  // null: cancel() does not end what runs
    std::atomic<std::uint32_t> stop_{0};
};

template <class T>
class LocalTask final : public LocalTaskBase {
  public:
    using Value = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

    static Ref<LocalTask> create() { return Ref<LocalTask>(new LocalTask); }
    void set(Value value) {
        finish([&] { value_.emplace(std::move(value)); });
    }
    // False: there is a result already, or it was cancelled.
    bool try_set(Value value) {
        return try_finish([&] { value_.emplace(std::move(value)); });
    }
    const void* value() const override {
        if (error()) std::rethrow_exception(error());
        return &*value_;
    }

  private:
    std::optional<Value> value_;
};

}  // namespace sidestep::detail
