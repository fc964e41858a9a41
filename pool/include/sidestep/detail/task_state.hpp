// A task as its future sees it. Internal: users hold a Future.
//
// Who completes a task decides how it is waited for: a process pool (pool_task.hpp), or a thread of
// this process (local_task.hpp).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <sidestep/detail/deadline.hpp>
#include <sidestep/task_output.hpp>

namespace sidestep::inline v0::detail {

// A counted reference to a task.
template <class T>
class Ref {
  public:
    Ref() = default;
    explicit Ref(T* adopted) noexcept : state_(adopted) {}
    Ref(const Ref& other) noexcept : state_(other.state_) {
        if (state_) state_->add_reference();
    }
    Ref(Ref&& other) noexcept : state_(other.release()) {}
    template <class Derived>
    Ref(Ref<Derived>&& other) noexcept : state_(other.release()) {}
    Ref& operator=(Ref other) noexcept {
        std::swap(state_, other.state_);
        return *this;
    }
    ~Ref() {
        if (state_) state_->drop_reference();
    }

    T* get() const noexcept { return state_; }
    T* operator->() const noexcept { return state_; }
    T& operator*() const noexcept { return *state_; }
    T* release() noexcept { return std::exchange(state_, nullptr); }
    explicit operator bool() const noexcept { return state_ != nullptr; }

  private:
    T* state_ = nullptr;
};

class CompletionQueue;
class NestedPool;
class PoolCore;
class ThreadPoolCore;

using Callbacks = std::list<std::function<void()>>;  // a list: they move without an allocation

// Those who want to know when a task is done. Guarded by the lock of whoever completes the task.
// What it takes to tell them is allocated when they are added: a task is completed without memory.
struct TaskListeners {
    std::vector<std::pair<std::shared_ptr<CompletionQueue>, std::size_t>> queues;
    Callbacks callbacks;

    void add(const std::shared_ptr<CompletionQueue>& queue, std::size_t tag);
    void tell_queues() const noexcept;
    void forget(const std::shared_ptr<CompletionQueue>& queue);
};
// Runs the callbacks of users; what one throws is reported on stderr and hurts nothing.
void run_callbacks(Callbacks callbacks) noexcept;

class TaskState {
  public:
    TaskState(const TaskState&) = delete;
    TaskState& operator=(const TaskState&) = delete;

    // SYNC(task): acquire, pairs with mark_done.
    bool done() const { return done_.load(std::memory_order_acquire); }
    // Waits until done(); false: the deadline passed.
    virtual bool wait(const Deadline& deadline) = 0;
    // Sees to it that what is finished is known, then done().
    virtual bool poll() = 0;
    virtual bool running() = 0;
    // True: its result is CancelledError.
    virtual bool cancel() = 0;
    virtual bool cancelled() const = 0;

    // False: the task is done already, and nobody will be told.
    virtual bool listen(const std::shared_ptr<CompletionQueue>& queue, std::size_t tag) = 0;
    virtual void forget(const std::shared_ptr<CompletionQueue>& queue) = 0;
    virtual bool add_callback(std::function<void()>& callback) = 0;
    // Tasks with the same owner (not null) can be waited for together, by any of them: waits until
    // ready(), which is called with the owner's lock held.
    virtual const void* owner() const { return nullptr; }
    virtual bool wait_until(const std::function<bool()>& ready, const Deadline& deadline);
    // The pool that it is a task of, if it is one's, and if that is there: see Future::then().
    virtual const std::shared_ptr<PoolCore>* process_pool() const { return nullptr; }
    virtual std::shared_ptr<ThreadPoolCore> thread_pool() const;
    // That of another process, which has been given it by a task here.
    virtual std::shared_ptr<NestedPool> nested_pool() const { return nullptr; }

    // Once done. The value, if the task ran in this process; else null, and the value's bytes,
    // which live as long as this object. Both throw what the task threw or what befell it.
    virtual const void* value() const { return nullptr; }
    virtual std::span<const std::byte> result() const { return {}; }
    // Null if the task has a value.
    virtual std::exception_ptr error() const = 0;
    // Null: it is not captured.
    virtual const TaskOutput* output() const { return nullptr; }

    // Relaxed: whoever copies a reference has one.
    void add_reference() noexcept { references_.fetch_add(1, std::memory_order_relaxed); }
    // For who has none: false if the last one is gone, or going. Its memory is to be there.
    bool add_reference_if_any() noexcept {
        std::uint32_t count = references_.load(std::memory_order_relaxed);
        while (count > 0)
            if (references_.compare_exchange_weak(count, count + 1, std::memory_order_relaxed))
                return true;
        return false;
    }
    // acq_rel: the last one sees what all others wrote.
    void drop_reference() noexcept {
        if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }

  protected:
    TaskState() = default;
    virtual ~TaskState() = default;
    // SYNC(task): release, pairs with done.
    void mark_done() { done_.store(true, std::memory_order_release); }
    TaskListeners& listeners() {
        if (!listeners_) listeners_ = std::make_unique<TaskListeners>();
        return *listeners_;
    }
    std::unique_ptr<TaskListeners> listeners_;  // null: nobody listens

  private:
    std::atomic<std::uint32_t> references_{1};
    std::atomic<bool> done_{false};
};

using TaskRef = Ref<TaskState>;

}  // namespace sidestep::detail
