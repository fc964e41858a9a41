// A task as its pool and its future see it. Internal: users hold a Future.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <sidestep/task.hpp>

namespace sidestep::detail {

class PoolCore;
class Garbage;
class WorkerMemory;
class TaskState;

using Deadline = std::optional<std::chrono::steady_clock::time_point>;

// A counted reference to a TaskState.
class TaskRef {
  public:
    TaskRef() = default;
    explicit TaskRef(TaskState* adopted) noexcept : state_(adopted) {}
    TaskRef(const TaskRef& other) noexcept;
    TaskRef(TaskRef&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
    TaskRef& operator=(TaskRef other) noexcept {
        std::swap(state_, other.state_);
        return *this;
    }
    ~TaskRef();

    TaskState* get() const noexcept { return state_; }
    TaskState* operator->() const noexcept { return state_; }
    TaskState& operator*() const noexcept { return *state_; }
    TaskState* release() noexcept { return std::exchange(state_, nullptr); }
    explicit operator bool() const noexcept { return state_ != nullptr; }

  private:
    TaskState* state_ = nullptr;
};

// Tasks of one consumer (a stream), in the order in which they are completed.
class Completions {
  public:
    explicit Completions(std::shared_ptr<PoolCore> core);
    ~Completions();
    Completions(const Completions&) = delete;
    Completions& operator=(const Completions&) = delete;

    // Waits for the next completed task that was submitted with this sink.
    TaskRef next();

  private:
    friend class PoolCore;
    std::shared_ptr<PoolCore> core_;
    TaskState* first_ = nullptr;  // guarded by the core's mutex, as is last_
    TaskState* last_ = nullptr;
};

// Written by the submitter until submit(); by the pool, under its mutex, until done() is true;
// constant from then on.
class TaskState {
  public:
    static constexpr std::size_t kInline = 184;

    // Starts a task of this kind; write its arguments, then submit().
    static TaskRef create(std::shared_ptr<PoolCore> core, const TaskId& id, const TaskEntry& entry,
                          const void* function);
    OutputBuffer& arguments() { return arguments_; }
    FdSink* fds() { return &descriptors_; }  // descriptors in the arguments go with the task
    // Throws std::logic_error if the pool is closed, BrokenPool if it is broken.
    static void submit(const TaskRef& task, Completions* sink = nullptr);

    // SYNC(task): acquire, pairs with PoolCore::complete.
    bool done() const { return done_.load(std::memory_order_acquire); }
    // Waits until done(); false: the deadline passed.
    bool wait(const Deadline& deadline);
    // Sees to it that what is finished is known, then done().
    bool poll();
    // True: the task will not run; its result is CancelledError.
    bool cancel();

    // Once done: the result's bytes, or throws what the task threw or what befell it. The bytes
    // live as long as this object.
    std::span<const std::byte> result() const;
    // Null if the task has a result.
    std::exception_ptr error() const;
    std::uint64_t duration_ns() const { return duration_ns_; }

    TaskState(const TaskState&) = delete;
    TaskState& operator=(const TaskState&) = delete;

  private:
    friend class PoolCore;
    friend class Garbage;
    friend class TaskRef;
    friend class Completions;
    struct Node;

    // The arguments: inline first, in the args arena when they grow.
    class Arguments final : public OutputBuffer {
      public:
        explicit Arguments(TaskState& task) : task_(&task) { set_window(task.bytes_, 0, kInline); }

      private:
        void grow(std::size_t more) override;
        TaskState* task_;
    };

    // Duplicates of the descriptors in the arguments, until the task is done.
    class Descriptors final : public FdSink {
      public:
        ~Descriptors() override { clear(); }
        std::uint64_t put(int fd) override;
        void clear();
        std::vector<int> numbers;
    };

    TaskState(std::shared_ptr<PoolCore> core, const TaskId& id, const TaskEntry& entry,
              const void* function);
    ~TaskState();

    // Constant after construction.
    std::shared_ptr<PoolCore> core_;
    const TaskId id_;
    const TaskEntry* entry_;
    const void* function_;
    // Atomic: counts references; sets done once.
    std::atomic<std::uint32_t> references_{1};
    std::atomic<bool> done_{false};
    // See above.
    enum class Place : unsigned char { new_, backlog, ring, done };
    Place place_ = Place::new_;
    bool has_value_ = false;   // result() holds the value's bytes (else an error's, or failure_)
    bool cancelled_ = false;   // by cancel()
    std::uint32_t link_ = 0;   // in a ring: whose,
    std::uint64_t index_ = 0;  //   and at which index
    std::uint64_t serial_ = 0;
    std::uint64_t duration_ns_ = 0;
    std::uint64_t argument_block_ = 0;  // in the args arena
    std::uint64_t result_block_ = 0;    // in memory_'s arena
    std::size_t result_size_ = 0;
    std::shared_ptr<WorkerMemory> memory_;
    std::exception_ptr failure_;
    Completions* sink_ = nullptr;
    TaskState* next_ = nullptr;  // in the backlog, then in the sink
    TaskState* previous_ = nullptr;
    TaskState* garbage_ = nullptr;  // completed, its reference to be dropped
    Arguments arguments_;
    Descriptors descriptors_;
    alignas(16) std::byte bytes_[kInline];  // inline arguments, then the inline result
};

inline TaskRef::TaskRef(const TaskRef& other) noexcept : state_(other.state_) {
    // Relaxed: whoever copies a reference has one.
    if (state_) state_->references_.fetch_add(1, std::memory_order_relaxed);
}
inline TaskRef::~TaskRef() {
    // acq_rel: the last one sees what all others wrote.
    if (state_ && state_->references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete state_;
}

}  // namespace sidestep::detail
