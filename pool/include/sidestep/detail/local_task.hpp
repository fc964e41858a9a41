// A task that a thread of this process completes: a Promise's, or a ThreadPool's. Internal.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>
#include <variant>

#include <sidestep/detail/task_state.hpp>
#include <sidestep/detail/word_mutex.hpp>

namespace sidestep::inline v0 {

enum class ForkGeneration : std::uint32_t;

namespace detail {

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
    // It is completed by a thread of the process of a ForkMarker, and in no forked copy of that.
    void belong_to(ForkGeneration process) { owner_ = process; }
    // See this_task::stop_requested(); a futex, for those that sleep.
    const std::atomic<std::uint32_t>& stop_flag() const { return stop_; }
    void ask_to_stop() noexcept;
    // While it runs, cancel() ends it too: its result is CancelledError at once, and stop() is
    // called. Before it is given to who may cancel it.
    void end_with(std::function<void()> stop) {
        stop_work_ = std::make_unique<std::function<void()>>(std::move(stop));
    }

    bool wait(const Deadline& deadline) override;
    bool poll() override { return done(); }
    bool running() override;
    bool cancel() override;
    bool cancelled() const override;
    bool listen(const std::shared_ptr<CompletionQueue>& queue, std::size_t tag) override;
    void forget(const std::shared_ptr<CompletionQueue>& queue) override;
    bool add_callback(std::function<void()>& callback) override;
    std::exception_ptr error() const override { return failure_; }

  protected:
    LocalTaskBase() = default;
    ~LocalTaskBase() override = default;
    // Calls store() if there is no result yet, and tells those who wait.
    template <class Store>
    void finish(Store&& store) {
        std::unique_lock lock(mutex_);
        if (has_ended()) throw_has_ended();
        store();
        complete(lock, State::finished);
    }
    // The same; false: there is a result already, or it was cancelled.
    template <class Store>
    bool try_finish(Store&& store) {
        std::unique_lock lock(mutex_);
        if (has_ended()) return false;
        store();
        complete(lock, State::finished);
        return true;
    }
    // Its mutex may be locked for ever, and nobody will complete it.
    bool is_forked_copy() const;

  private:
    enum class State : unsigned char { waiting, running, cancelled, finished };
    bool has_ended() const { return state_ == State::cancelled || state_ == State::finished; }
    [[noreturn]] void throw_has_ended() const;
    void complete(std::unique_lock<WordMutex>& lock, State end) noexcept;

    // Constant once done(). Changed with mutex_ held, but for start().
    std::atomic<State> state_{State::waiting};

  protected:
    bool has_value_ = false;  // see LocalTask; it lies here since there is room

  private:
    mutable WordMutex mutex_;
    // For those who wait until it is done: nobody does, somebody sleeps, it is done. Changed with
    // mutex_ held.
    std::atomic<std::uint32_t> sleepers_{0};
    std::atomic<std::uint32_t> stop_{0};
    ForkGeneration owner_{};      // constant since it was submitted; none: anybody may complete it
    std::exception_ptr failure_;  // guarded by mutex_ until done(), constant from then on
    std::unique_ptr<std::function<void()>> stop_work_;  // null: cancel() does not end what runs
};

// Base: what it is besides: a job of a ThreadPool is a task, and one piece of memory.
template <class T, class Base = LocalTaskBase>
class LocalTask : public Base {
  public:
    using Value = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

    static Ref<LocalTask> create() { return Ref<LocalTask>(new LocalTask); }
    void set(Value value) {
        this->finish([&] { store(std::move(value)); });
    }
    // False: there is a result already, or it was cancelled.
    bool try_set(Value value) {
        return this->try_finish([&] { store(std::move(value)); });
    }
    const void* value() const override {
        if (!this->has_value_) std::rethrow_exception(this->error());
        return &value_;
    }

  protected:
    LocalTask() {}
    ~LocalTask() override {
        if (this->has_value_) value_.~Value();
    }

  private:
    void store(Value&& value) {
        new (&value_) Value(std::move(value));
        this->has_value_ = true;
    }

    union {
        Value value_;
    };
};

}  // namespace detail
}  // namespace sidestep
