// A task of a process pool. Internal: users hold a Future.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <forward_list>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include <sidestep/detail/task_state.hpp>
#include <sidestep/task.hpp>
#include <sidestep/task_options.hpp>

namespace sidestep::inline v0::detail {

class Lane;
class PoolCore;
class PoolTask;
class TaskEnd;
class WorkerMemory;
using PoolTaskRef = Ref<PoolTask>;
struct TokenUse;  // see token_gate.hpp
struct DropTokenUse {
    void operator()(TokenUse* use) const noexcept;
};
using TokenUsePtr = std::unique_ptr<TokenUse, DropTokenUse>;

// Throws what submit() would.
void check_open(PoolCore& core);
// A place for a task that is submitted in this thread while it lives; null: there is none now.
std::shared_ptr<void> take_place(const std::shared_ptr<PoolCore>& core);
// While the result lives, join() waits: somebody has called a map.
std::shared_ptr<void> hold_open(const std::shared_ptr<PoolCore>& core);
// Who waits for something in this pool looks again whether it is there.
void look_again(PoolCore& core);

// Tasks of one consumer (a stream), in the order in which they are completed.
class TaskSink {
  public:
    explicit TaskSink(std::shared_ptr<PoolCore> core);
    ~TaskSink();
    TaskSink(const TaskSink&) = delete;
    TaskSink& operator=(const TaskSink&) = delete;

    // Waits for the next completed task that was submitted with this sink.
    PoolTaskRef next();
    PoolTaskRef try_next();                           // null: there is none now
    bool empty() const { return first_ == nullptr; }  // with the core's mutex held

  private:
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

// What lies in the memory of records (see record_memory.hpp in src/task/): at most so many bytes.
struct InRecordMemory {
    static constexpr std::size_t kMost = 192;
    static void* operator new(std::size_t size);
    static void operator delete(void* memory, std::size_t size) noexcept;
};

// The bytes of a task: those of its arguments, but for a block in the args arena; then those of its
// result, or why it has none. Most have room in the record itself.
class TaskBytes {
  public:
    static constexpr std::size_t kHere = 24;   // a function's place in the program, and a number
    static constexpr std::size_t kWide = 152;  // as much as a slot of a ring has
    // They stay where a worker wrote them, until the task goes.
    struct Lent {
        std::shared_ptr<WorkerMemory> memory;
        std::uint64_t block = 0;
    };

    // Room for so many, at most kWide; what was there is gone. Throws std::bad_alloc; then it is
    // there still.
    std::byte* make_room(std::size_t size);
    void set_size(std::size_t size) { size_ = size; }
    // Copies them. False: there is no memory.
    bool assign(std::span<const std::byte> bytes) noexcept;
    void take(std::vector<std::byte> bytes) noexcept;
    void lend(Lent lent, std::size_t size) noexcept;
    void fail(std::exception_ptr why) noexcept;

    std::size_t size() const { return size_; }
    const Lent* lent() const { return std::get_if<Lent>(&where_); }
    std::exception_ptr failure() const {
        const auto* why = std::get_if<std::exception_ptr>(&where_);
        return why ? *why : nullptr;
    }
    std::span<const std::byte> view() const {
        const auto* here = std::get_if<Here>(&where_);
        return {here ? here->bytes : elsewhere(), size_};
    }
    // Requires: made by make_room().
    std::byte* data();
    std::size_t capacity() const { return std::holds_alternative<Here>(where_) ? kHere : kWide; }

  private:
    struct Here {
        alignas(8) std::byte bytes[kHere];
    };
    struct Wide : InRecordMemory {
        alignas(8) std::byte bytes[kWide];
    };
    const std::byte* elsewhere() const;  // null: nowhere

    std::size_t size_ = 0;
    std::variant<Here, std::unique_ptr<Wide>, std::vector<std::byte>, Lent, std::exception_ptr>
        where_;
};

struct TaskItems {  // of a chunk; 0, 0: it is none
    std::uint32_t begin = 0, end = 0;
    std::uint32_t done = 0;
    std::uint32_t told = 0;   // of a task of map_reduce's, which is no chunk: for its error's text
    std::uint64_t first = 0;  // of the input's items
};
inline constexpr TaskItems kNoItems{};

// What the rooms of a pool keep about a task: plain data. Written by the submitter until submit();
// by the pool, under its mutex, until done() is true; constant from then on.
//
// A program may hold a million futures, so a task is small: what few of them have is in More.
struct TaskRecord {
    static constexpr std::size_t kInline = TaskBytes::kWide;  // without a block of an arena

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
    // Where a worker's lane keeps them that reads them still when the task is stopped. Made with
    // `kept`: when a task is stopped there may be no memory for it.
    using KeptPlace = std::forward_list<std::shared_ptr<const void>>;
    // Once done: what became of the items of a chunk that come after those that were run.
    struct Split {
        std::exception_ptr error;  // of the item, or
        PoolTaskRef again;         //   this, which runs it once more
        PoolTaskRef rest;          // null: there is none
    };
    enum class Place : unsigned char {
        new_,
        backlog,
        lane,
        elsewhere,
        stopping,
        delayed,
        asked,
        late,
        done
    };
    struct Failures {
        std::uint16_t attempts = 0;  // that failed
        std::uint16_t crashes = 0;
        std::uint16_t out_of_memory = 0;
    };
    using Items = TaskItems;
    struct More : InRecordMemory {
        Items items;
        TaskSink* sink = nullptr;
        std::uint64_t number = 0;             // elsewhere: its number there,
        std::uint32_t host = 0;               //   and whose it is
        std::shared_ptr<KeptArguments> kept;  // instead of its own arguments;
        KeptPlace kept_place;                 //   one, while a lane could need it (Stopping)
        TaskDescriptors descriptors;          // in them
        std::unique_ptr<Split> parts;
        TokenUsePtr tokens;  // null: it needs none, or they are its lane's (Stopping)
        std::unique_ptr<TaskOutput> output;  // null: it wrote nothing, or that is not captured
    };

    explicit TaskRecord(const TaskKind& kind)
        : id(&kind.id), entry(&kind.entry), function(kind.function) {}

    const Items& items() const { return more ? more->items : kNoItems; }
    TaskSink* sink() const { return more ? more->sink : nullptr; }
    TokenUse* tokens() const { return more ? more->tokens.get() : nullptr; }
    bool has_descriptors() const { return more && !more->descriptors.empty(); }
    const TaskDescriptors& descriptors() const;
    std::shared_ptr<KeptArguments> kept() const { return more ? more->kept : nullptr; }
    // Throws std::bad_alloc, if there is none yet.
    More& make_more() {
        if (!more) more = std::make_unique<More>();
        return *more;
    }
    // All of its items were run.
    void end_items() {
        if (more) more->items.done = more->items.end - more->items.begin;
    }

    // A chunk of a map: so many items, the first of which is the `first`-th of the input. What
    // befalls one of them costs the others nothing.
    void set_chunk(std::uint32_t count, std::uint64_t first) {
        Items& items = make_more().items;
        items.end = count;
        items.first = first;
    }
    bool is_chunk() const { return more && more->items.end > 0; }
    // So many items that are one: its worker tells how far it is (ChunkProgress), so that an error
    // names the item, but what befalls one of them befalls the task.
    void set_told_items(std::uint32_t count, std::uint64_t first) {
        Items& items = make_more().items;
        items.told = count;
        items.first = first;
    }
    // Once done: how many items were run, from the first on. They are all, or what came after is in
    // other tasks, which run already: the item that ended this one (or its error), and the rest.
    std::uint32_t items_done() const { return items().done; }
    const Split* split() const { return more ? more->parts.get() : nullptr; }
    // What a task is that was made on another host: see HostOrder.
    void set_origin(std::uint64_t its_serial, const Items& its_items, std::uint16_t attempts) {
        if (its_items.end > 0 || its_items.told > 0) make_more().items = its_items;
        serial = its_serial;
        failures.attempts = attempts;
    }
    // An item of its that threw is run again.
    bool runs_items_again() const { return options && options->retry.max_attempts > 1; }

    const TaskId* const id;
    const TaskEntry* const entry;
    const void* const function;
    const TaskOptions* options = nullptr;  // null: none
    std::uint64_t serial = 0;
    Lane* lane = nullptr;          // that has it
    PoolTask* next = nullptr;      // in a TaskList, then in the sink
    PoolTask* previous = nullptr;  // in a TaskList; once done, the next one that a Hold drops
    // When it was submitted (steady clock; 0: its wait is not measured). Then how long it ran.
    std::uint64_t time_ns = 0;
    std::uint64_t block = 0;  // its arguments, in the args arena; 0: they are in `bytes`
    std::unique_ptr<More> more;
    std::int32_t priority = 0;
    Failures failures;
    Place place = Place::new_;
    bool has_value = false;     // the bytes are a value's (else an error's, or there are none)
    bool is_cancelled = false;  // by cancel()
    bool output_lost = false;   // there was no memory for `output`
    TaskBytes bytes;
};

class PoolTask final : public TaskState, public TaskRecord, public InRecordMemory {
  public:
    // Starts a task of this kind, which outlives it; write its arguments (TaskWriter), then
    // submit(). Options: null for the pool's.
    static PoolTaskRef create(const std::shared_ptr<PoolCore>& core, const TaskKind& kind,
                              const TaskOptions* options = nullptr);
    // Throws std::logic_error if the pool is closed (begun: a stream's, which was made before it
    // was; so if it is joined), or terminated (begun: CancelledError), BrokenPool if it is broken.
    static void submit(const PoolTaskRef& task, TaskSink* sink = nullptr, bool begun = false);
    // Those in the arguments of a chunk go with it. Throws std::bad_alloc.
    FdSink* fds() { return &make_more().descriptors; }
    // Takes it back if no worker has begun it; running_too: stops it. With what it was split into.
    void cancel_parts(bool running_too);

    // Of a chunk that is not done: the place in the input of the first item that is not finished.
    std::uint64_t first_unfinished();
    // Once done: bytes of a value or of an error; or an error of the pool's, and no bytes.
    struct Ending {
        bool has_value;
        std::span<const std::byte> bytes;
        std::exception_ptr failure;
    };
    Ending ending() const { return {has_value, bytes.view(), bytes.failure()}; }
    // Runs an item that failed once more, if its options allow that; else null.
    static PoolTaskRef run_item_again(const PoolTaskRef& task, std::uint32_t item,
                                      const std::exception_ptr& error);
    // For the pool: the items [from, to) of this chunk, as a task of their own.
    PoolTaskRef part(std::uint32_t from, std::uint32_t to);
    // Keeps the arguments for parts, or for a worker that may read them longer than this task is.
    void keep_arguments();
    // For the pool: the arguments of a task that waited for them; in the block, or where they are.
    // Throws std::bad_alloc; then nothing was taken.
    void take_arguments(std::uint64_t its_block, TaskBytes& its_bytes,
                        TaskDescriptors& its_descriptors);
    struct ArgumentView {
        std::uint64_t block;
        std::size_t size;
        const std::byte* inline_bytes;
        const TaskDescriptors* fds;
    };
    ArgumentView argument_view() const;

    bool wait(const Deadline& deadline) override;
    bool poll() override;
    bool running() override;
    bool cancel() override;
    bool cancelled() const override { return done() && is_cancelled; }
    bool listen(const std::shared_ptr<CompletionQueue>& queue, std::size_t tag) override;
    void forget(const std::shared_ptr<CompletionQueue>& queue) override;
    bool add_callback(std::function<void()>& callback) override;
    const void* owner() const override { return core_.get(); }
    const std::shared_ptr<PoolCore>* process_pool() const override { return &core_; }
    bool wait_until(const std::function<bool()>& ready, const Deadline& deadline) override;
    std::span<const std::byte> result() const override;
    std::exception_ptr error() const override;
    const TaskOutput* output() const override;
    PoolCore& core() const { return *core_; }
    // Once done; 0: it did not come to its end.
    std::uint64_t duration_ns() const { return bytes.failure() ? 0 : time_ns; }

    using TaskState::listeners;   // for who ends the task,
    using TaskState::listeners_;  //   as these
    using TaskState::mark_done;

  private:
    PoolTask(std::shared_ptr<PoolCore> core, const TaskKind& kind);
    ~PoolTask() override;

    const std::shared_ptr<PoolCore> core_;
    std::unique_ptr<TaskOptions> own_options_;
};
static_assert(sizeof(PoolTask) <= InRecordMemory::kMost);

// Writes the arguments of a task that is not submitted yet, from the first one on; the descriptors
// in them go with the task. They are in its record, and in the args arena when they grow. When the
// writer goes the task has what was written.
class TaskWriter final : public OutputBuffer, public FdSink {
  public:
    explicit TaskWriter(PoolTask& task);
    ~TaskWriter() override { task_.bytes.set_size(size()); }
    TaskWriter(const TaskWriter&) = delete;
    TaskWriter& operator=(const TaskWriter&) = delete;

    std::uint64_t put(int fd) override { return task_.make_more().descriptors.put(fd); }
    std::uint64_t put_lasting(int fd, std::uint64_t identity,
                              const std::shared_ptr<const void>& owner) override {
        return task_.make_more().descriptors.put_lasting(fd, identity, owner);
    }

  private:
    void grow(std::size_t more) override;

    PoolTask& task_;
};

}  // namespace sidestep::detail
