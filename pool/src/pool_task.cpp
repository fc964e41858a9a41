#include <sidestep/detail/pool_task.hpp>

#include <algorithm>
#include <new>
#include <stdexcept>

#include <sidestep/detail/late_arguments.hpp>
#include <sidestep/remote_error.hpp>

#include "pool_core.hpp"
#include "task/record_memory.hpp"

namespace sidestep::inline v0::detail {

static_assert(PoolTask::kInline == TaskSlot::kInline);

PoolTask::PoolTask(std::shared_ptr<PoolCore> core, const TaskKind& kind)
    : TaskRecord(kind), core_(std::move(core)), arguments_(*this) {}

PoolTask::~PoolTask() {
    if (given.block) core_->memory().free(given.block);  // kept, or never submitted
    if (outcome.block) core_->memory().free_result(*outcome.memory, outcome.block);
}

void* PoolTask::operator new(std::size_t size) { return RecordMemory::allocate(size); }
void PoolTask::operator delete(void* task, std::size_t size) noexcept {
    RecordMemory::free(task, size);
}

PoolTaskRef PoolTask::create(const std::shared_ptr<PoolCore>& core, const TaskKind& kind,
                             const TaskOptions* options) {
    PoolTaskRef task(new PoolTask(core, kind));
    task->options = core->default_options();
    task->priority = core->options().task.priority;
    if (options) {
        task->own_options_ = std::make_unique<TaskOptions>(merged(*options, core->options().task));
        task->options = task->own_options_.get();
        task->priority = task->options->priority;
        task->tokens = core->wanted(task->options->uses);
    }
    return task;
}

void check_open(PoolCore& core) { core.check_open(); }
void check_map(PoolCore& core, const MapOptions& options) {
    core.check_open();
    check_map_options(options);
    (void)core.wanted(options.task.uses);
}
std::shared_ptr<void> take_place(const std::shared_ptr<PoolCore>& core) {
    return PoolCore::take_place(core);
}
void look_again(PoolCore& core) { core.look_again(); }

std::shared_ptr<void> hold_open(const std::shared_ptr<PoolCore>& core) {
    struct OpenMap {
        explicit OpenMap(const std::shared_ptr<PoolCore>& held) : core(held), here(*held) {
            core->begin_map();
        }
        ~OpenMap() { core->end_map(); }
        const std::shared_ptr<PoolCore> core;
        const InPool here;
    };
    return std::make_shared<OpenMap>(core);
}

void PoolTask::submit(const PoolTaskRef& task, TaskSink* sink, bool begun) {
    // A part of a chunk may be wanted once more, when all of it is done.
    if (task->is_chunk() && task->runs_items_again()) task->keep_arguments();
    task->core_->submit(task, sink, begun);
}

void submit_late(const PoolTaskRef& task, std::unique_ptr<LateArguments> arguments) {
    task->core().submit_late(task, std::move(arguments));
}

void PoolTask::take_arguments(std::uint64_t block, std::span<std::byte> bytes,
                              TaskDescriptors& descriptors) noexcept {
    given.block = block;
    given.descriptors.swap(descriptors);
    if (block) return arguments_.take(bytes.data(), bytes.size());
    if (!bytes.empty()) std::memcpy(inline_bytes, bytes.data(), bytes.size());
    arguments_.take(inline_bytes, bytes.size());
}

TaskRecord::KeptArguments::~KeptArguments() {
    if (block) core->memory().free(block);
}

void PoolTask::keep_arguments() {
    if (given.kept) return;
    auto kept = std::make_shared<KeptArguments>();
    kept->core = core_;
    kept->size = arguments_.size();
    if (!given.block) kept->inline_bytes.assign(inline_bytes, inline_bytes + kept->size);
    kept->block = std::exchange(given.block, 0);  // from here on nothing throws
    kept->descriptors.swap(given.descriptors);
    given.kept = std::move(kept);
}

PoolTask::ArgumentView PoolTask::argument_view() const {
    if (!given.kept) return {given.block, arguments_.size(), inline_bytes, &given.descriptors};
    const KeptArguments& kept = *given.kept;
    return {kept.block, kept.size, kept.inline_bytes.data(), &kept.descriptors};
}

PoolTaskRef PoolTask::part(std::uint32_t from, std::uint32_t to) {
    PoolTaskRef task(new PoolTask(core_, {id, *entry, function}));
    keep_arguments();
    task->given.kept = given.kept;
    task->options = options;
    if (own_options_) {
        task->own_options_ = std::make_unique<TaskOptions>(*own_options_);
        task->options = task->own_options_.get();
        task->tokens = core_->wanted(task->options->uses);
    }
    task->priority = priority;
    task->items.begin = from;
    task->items.end = to;
    task->items.first = items.first;
    return task;
}

PoolTaskRef PoolTask::run_item_again(const PoolTaskRef& task, std::uint32_t item,
                                     const std::exception_ptr& error) {
    const TaskOptions* options = task->options;
    if (!options || task->failures.attempts + 1u >= options->retry.max_attempts) return {};
    if (!wants_retry(options->retry, error)) return {};
    PoolTaskRef part = task->part(task->items.begin + item, task->items.begin + item + 1);
    part->failures.attempts = static_cast<std::uint16_t>(task->failures.attempts + 1);
    part->failures.crashes = task->failures.crashes;
    part->failures.out_of_memory = task->failures.out_of_memory;
    task->core_->submit_again(part);
    return part;
}

// Doubles, and so copies each byte about once; a large piece gets exactly what it needs.
void PoolTask::ArgumentBuffer::grow(std::size_t more) {
    ArgumentMemory& memory = task_->core_->memory();
    std::size_t used = size();
    BlockId larger = memory.allocate(std::max(used + more, 2 * capacity()));
    std::byte* data = memory.data(larger);
    std::memcpy(data, begin(), used);
    if (task_->given.block) memory.free(task_->given.block);
    task_->given.block = larger;
    set_window(data, used, Arena::capacity(larger));
}

TaskDescriptors::~TaskDescriptors() {
    for (int number : numbers) Fd close_it(number);
}

void TaskDescriptors::swap(TaskDescriptors& other) noexcept {
    numbers.swap(other.numbers);
    lasting.swap(other.lasting);
}

std::uint64_t TaskDescriptors::put(int fd) {
    numbers.reserve(numbers.size() + 1);
    numbers.push_back(Fd::duplicate_of(fd).release());
    return numbers.size() - 1;
}

std::uint64_t TaskDescriptors::put_lasting(int fd, std::uint64_t identity,
                                           const std::shared_ptr<const void>& owner) {
    bool present = std::any_of(lasting.begin(), lasting.end(),
                               [&](const Lasting& l) { return l.identity == identity; });
    if (!present) lasting.push_back({identity, fd, owner});
    return kLasting | identity;
}

bool PoolTask::wait(const Deadline& deadline) {
    return done() || core_->desk().wait([this] { return done(); }, deadline);
}

bool PoolTask::wait_until(const std::function<bool()>& ready, const Deadline& deadline) {
    return core_->desk().wait(ready, deadline);
}

bool PoolTask::poll() {
    if (!done()) core_->desk().poll();
    return done();
}

std::uint64_t PoolTask::first_unfinished() {
    return items.first + items.begin + core_->desk().finished_items(*this);
}

bool PoolTask::running() { return core_->desk().running(*this); }
bool PoolTask::cancel() { return core_->desk().cancel(*this, true); }

void PoolTask::cancel_parts(bool running_too) {
    (void)core_->desk().cancel(*this, running_too);
    if (!done() || !parts) return;
    for (const PoolTaskRef& part : {parts->again, parts->rest})
        if (part) part->cancel_parts(running_too);
}

bool PoolTask::listen(const std::shared_ptr<CompletionQueue>& queue, std::size_t tag) {
    return core_->desk().add_listener(*this, [&](TaskListeners& l) { l.add(queue, tag); });
}

void PoolTask::forget(const std::shared_ptr<CompletionQueue>& queue) {
    core_->desk().add_listener(*this, [&](TaskListeners& l) { l.forget(queue); });
}

bool PoolTask::add_callback(std::function<void()>& callback) {
    return core_->desk().add_listener(*this, [&](TaskListeners& l) {
        core_->callbacks().start();  // here: the pool has not ended while this task is not done
        l.callbacks.push_back(std::move(callback));
    });
}

namespace {
void require_done(const TaskState& task) {
    if (!task.done())
        throw std::logic_error(
            "this future belongs to the process that made it, and this is a forked copy");
}
}  // namespace

std::span<const std::byte> PoolTask::reply() const {
    if (!outcome.bytes.empty()) return outcome.bytes;
    const std::byte* data = outcome.block
                                ? outcome.memory->results.data() + Arena::offset(outcome.block)
                                : inline_bytes;
    return {data, outcome.size};
}

// A chunk that was split has the results of its first items, whatever befell the others.
std::span<const std::byte> PoolTask::result() const {
    if (std::exception_ptr e = error()) std::rethrow_exception(e);
    return reply();
}

std::exception_ptr PoolTask::error() const {
    require_done(*this);
    if (outcome.failure || outcome.has_value) return outcome.failure;
    try {
        InputArchive archive(reply());
        return load_exception(archive);
    } catch (...) {
        return std::current_exception();
    }
}

const TaskOutput* PoolTask::output() const {
    static const TaskOutput nothing;
    require_done(*this);
    if (core_->options().output == Output::pass) return nullptr;
    if (!outcome.output_lost) return outcome.output ? outcome.output.get() : &nothing;
    static const std::string note = std::string(kOutputNote) +
                                    "what the task wrote is lost: there was no memory to take it "
                                    "over when it ended]\n";
    static const TaskOutput lost{note, note, 0, 0};
    return &lost;
}

TaskSink::TaskSink(std::shared_ptr<PoolCore> core) : core_(std::move(core)) {}
TaskSink::~TaskSink() { core_->desk().forget(*this, first_); }
PoolTaskRef TaskSink::next() {
    (void)core_->desk().wait([this] { return !empty(); }, {});
    return try_next();
}
PoolTaskRef TaskSink::try_next() { return core_->desk().take_next(first_, last_); }

}  // namespace sidestep::detail
