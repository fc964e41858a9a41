// A task of a process pool. Internal: users hold a Future.
#pragma once

#include <sidestep/detail/task_state.hpp>
#include <sidestep/task.hpp>
#include <sidestep/task_options.hpp>

namespace sidestep::inline v0::detail {

class Backlog;
class PoolCore;
class Hold;
class TaskEnd;
class TaskList;
class WorkerMemory;
class PoolTask;
using PoolTaskRef = Ref<PoolTask>;

// Throws what submit() would.
void check_open(PoolCore& core);
// While the result lives, join() waits: somebody has called a map.
std::shared_ptr<void> hold_open(const std::shared_ptr<PoolCore>& core);

// Tasks of one consumer (a stream), in the order in which they are completed.
class Completions {
  public:
    explicit Completions(std::shared_ptr<PoolCore> core);
    ~Completions();
    Completions(const Completions&) = delete;
    Completions& operator=(const Completions&) = delete;

    // Waits for the next completed task that was submitted with this sink.
    PoolTaskRef next();

  private:
    friend class PoolCore;
    friend class TaskEnd;
    std::shared_ptr<PoolCore> core_;
    PoolTask* first_ = nullptr;  // guarded by the core's mutex, as is last_
    PoolTask* last_ = nullptr;
};

// What kind of task: its code, and the function it was made from, for messages.
struct TaskKind {
    const TaskId& id;
    const TaskEntry& entry;
    const void* function = nullptr;
};
template <class Body, class F>
TaskKind task_kind(const F& f) {
    return {task_id<Body>(), kTaskEntry<Body>, function_address(f)};
}

// The descriptors in the arguments, until the task is done: duplicates; of lasting ones the
// owner is kept, and their identity stands in the bytes.
class TaskDescriptors final : public FdSink {
  public:
    static constexpr std::uint64_t kLasting = std::uint64_t(1) << 63;
    struct Lasting {
        std::uint64_t identity;
        int fd;
        std::shared_ptr<const void> owner;
    };
    ~TaskDescriptors() override;
    std::uint64_t put(int fd) override;
    std::uint64_t put_lasting(int fd, std::uint64_t identity,
                              const std::shared_ptr<const void>& owner) override;
    bool empty() const { return numbers.empty() && lasting.empty(); }
    void swap(TaskDescriptors& other) noexcept;

    std::vector<int> numbers;  // owned
    std::vector<Lasting> lasting;
};

// Written by the submitter until submit(); by the pool, under its mutex, until done() is true;
// constant from then on.
class PoolTask final : public TaskState {
  public:
    static constexpr std::size_t kInline = 152;

    // Starts a task of this kind; write its arguments, then submit(). Options: null for the pool's.
    static PoolTaskRef create(const std::shared_ptr<PoolCore>& core, const TaskKind& kind,
                              const TaskOptions* options = nullptr);
    OutputBuffer& arguments() { return arguments_; }
    FdSink* fds() { return &descriptors_; }  // descriptors in the arguments go with the task
    // Throws std::logic_error if the pool is closed (begun: a stream's, which was made before it
    // was; so if it is joined), or terminated (begun: CancelledError), BrokenPool if it is broken.
    static void submit(const PoolTaskRef& task, Completions* sink = nullptr, bool begun = false);
    // Takes it back if no worker has begun it.
    bool cancel_waiting();

    // A chunk of a map: so many items, the first of which is the `first`-th of the input. What
    // befalls one of them costs the others nothing.
    void set_chunk(std::uint32_t items, std::uint64_t first) {
        items_end_ = items;
        first_item_ = first;
    }
    // Once done: how many items were run, from the first on. They are all, or what came after is in
    // other tasks, which run already: the item that ended this one (or its error), and the rest.
    std::uint32_t items_done() const { return items_done_; }
    struct Split {
        std::exception_ptr error;  // of the item, or
        PoolTaskRef again;         //   this, which runs it once more
        PoolTaskRef rest;          // null: there is none
    };
    const Split* split() const { return split_.get(); }
    // Runs an item that failed once more, if its options allow that; else null.
    static PoolTaskRef run_item_again(const PoolTaskRef& task, std::uint32_t item,
                                      const std::exception_ptr& error);

    bool wait(const Deadline& deadline) override;
    bool poll() override;
    bool running() override;
    bool cancel() override;
    bool cancelled() const override { return done() && cancelled_; }
    bool listen(const std::shared_ptr<CompletionQueue>& queue, std::size_t tag) override;
    void forget(const std::shared_ptr<CompletionQueue>& queue) override;
    bool add_callback(std::function<void()>& callback) override;
    const void* owner() const override { return core_.get(); }
    bool wait_until(const std::function<bool()>& ready, const Deadline& deadline) override;
    std::span<const std::byte> result() const override;
    std::exception_ptr error() const override;
    const TaskOutput* output() const override;

    std::uint64_t duration_ns() const { return duration_ns_; }

  private:
    friend class Backlog;
    friend class PoolCore;
    friend class Hold;
    friend class TaskEnd;
    friend class TaskList;
    friend class Completions;

    // The arguments: inline first, in the args arena when they grow.
    class Arguments final : public OutputBuffer {
      public:
        explicit Arguments(PoolTask& task) : task_(&task) { set_window(task.bytes_, 0, kInline); }

      private:
        void grow(std::size_t more) override;
        PoolTask* task_;
    };

    // Arguments that a task shares with the parts that it was split into. The last one to go frees
    // them, which takes the pool's mutex.
    struct KeptArguments {
        ~KeptArguments();
        std::shared_ptr<PoolCore> core;
        std::uint64_t block = 0;
        std::size_t size = 0;
        std::vector<std::byte> inline_bytes;
        TaskDescriptors descriptors;
    };
    struct ArgumentView {
        std::uint64_t block;
        std::size_t size;
        const std::byte* inline_bytes;
        const TaskDescriptors* fds;
    };
    ArgumentView argument_view() const;

    PoolTask(std::shared_ptr<PoolCore> core, const TaskKind& kind);
    ~PoolTask() override;
    std::span<const std::byte> reply() const;
    void keep_arguments();
    PoolTaskRef part(std::uint32_t begin, std::uint32_t end);
    template <class Read>
    void store_output(Read read) noexcept;
    bool is_chunk() const { return items_end_ > 0; }

    // Constant after construction.
    const std::shared_ptr<PoolCore> core_;
    const TaskId id_;
    const TaskEntry* const entry_;
    const void* const function_;
    std::unique_ptr<TaskOptions> own_options_;
    const TaskOptions* options_ = nullptr;  // null: none
    // See above.
    enum class Place : unsigned char { new_, backlog, ring, evicted, delayed, judged, done };
    Place place_ = Place::new_;
    bool has_value_ = false;      // reply() holds the value's bytes (else an error's, or failure_)
    bool cancelled_ = false;      // by cancel()
    bool output_lost_ = false;    // there was no memory for output_
    std::uint16_t attempts_ = 0;  // that failed
    std::uint16_t crashes_ = 0;
    std::uint16_t out_of_memory_ = 0;
    std::int32_t priority_ = 0;
    std::uint32_t items_begin_ = 0, items_end_ = 0;  // of a chunk; 0, 0: it is none
    std::uint32_t items_done_ = 0;
    std::uint64_t first_item_ = 0;
    std::shared_ptr<KeptArguments> kept_;  // instead of its own
    std::unique_ptr<Split> split_;
    std::uint32_t link_ = 0;   // in a ring: whose,
    std::uint64_t index_ = 0;  //   and at which index
    std::uint64_t serial_ = 0;
    std::uint64_t duration_ns_ = 0;
    std::uint64_t submitted_ns_ = 0;    // steady clock; 0: its wait is not measured
    std::uint64_t argument_block_ = 0;  // in the args arena
    std::uint64_t result_block_ = 0;    // in memory_'s arena
    std::size_t result_size_ = 0;
    std::shared_ptr<WorkerMemory> memory_;
    std::exception_ptr failure_;
    std::vector<std::byte> own_result_;   // where bytes_ cannot have it
    std::unique_ptr<TaskOutput> output_;  // null: it wrote nothing, or that is not captured
    Completions* sink_ = nullptr;
    PoolTask* next_ = nullptr;  // in a TaskList, then in the sink
    PoolTask* previous_ = nullptr;
    PoolTask* next_dropped_ = nullptr;  // completed, its reference to be dropped (Hold)
    Arguments arguments_;
    TaskDescriptors descriptors_;
    alignas(16) std::byte bytes_[kInline];  // inline arguments, then the inline result
};

}  // namespace sidestep::detail
