#include <sidestep/detail/pool_task.hpp>

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#include <sidestep/detail/late_arguments.hpp>
#include <sidestep/detail/nested_pool.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/this_task.hpp>

#include "place.hpp"
#include "pool_core.hpp"
#include "task/record_memory.hpp"
#include "worker/line_mark.hpp"

namespace sidestep::inline v0::detail {

static_assert(PoolTask::kInline == TaskSlot::kInline);
static_assert(sizeof(TaskRecord::More) <= InRecordMemory::kMost);
static_assert(InRecordMemory::kMost <= RecordMemory::kRecord);

void* InRecordMemory::operator new(std::size_t) { return RecordMemory::allocate(); }
void InRecordMemory::operator delete(void* memory, std::size_t) noexcept {
    RecordMemory::free(memory);
}

std::byte* TaskBytes::make_room(std::size_t size) {
    if (size > kHere) {
        if (!std::holds_alternative<std::unique_ptr<Wide>>(where_))
            where_ = std::make_unique<Wide>();
    } else if (!std::holds_alternative<Here>(where_)) {
        where_ = Here();
    }
    size_ = size;
    return data();
}

bool TaskBytes::assign(std::span<const std::byte> bytes) noexcept {
    if (auto* here = std::get_if<Here>(&where_); here && bytes.size() <= kHere) {  // nearly always
        size_ = bytes.size();
        if (!bytes.empty()) std::memcpy(here->bytes, bytes.data(), bytes.size());
        return true;
    }
    try {
        if (bytes.size() > kWide)
            take({bytes.begin(), bytes.end()});
        else if (std::byte* to = make_room(bytes.size()); !bytes.empty())
            std::memcpy(to, bytes.data(), bytes.size());
        return true;
    } catch (const std::bad_alloc&) {
        return false;
    }
}

void TaskBytes::take(std::vector<std::byte> bytes) noexcept {
    size_ = bytes.size();
    where_ = std::move(bytes);
}

void TaskBytes::lend(Lent lent, std::size_t size) noexcept {
    size_ = size;
    where_ = std::move(lent);
}

void TaskBytes::fail(std::exception_ptr why) noexcept {
    size_ = 0;
    where_ = std::move(why);
}

std::byte* TaskBytes::data() {
    if (auto* here = std::get_if<Here>(&where_)) return here->bytes;
    return (*std::get_if<std::unique_ptr<Wide>>(&where_))->bytes;
}

const std::byte* TaskBytes::elsewhere() const {
    if (const auto* wide = std::get_if<std::unique_ptr<Wide>>(&where_)) return (*wide)->bytes;
    if (const auto* own = std::get_if<std::vector<std::byte>>(&where_)) return own->data();
    if (const Lent* in = lent()) return in->memory->results.data() + Arena::offset(in->block);
    return nullptr;
}

const TaskDescriptors& TaskRecord::descriptors() const {
    static const auto* const none = new TaskDescriptors;  // never destroyed
    return more ? more->descriptors : *none;
}

PoolTask::PoolTask(std::shared_ptr<PoolCore> core, const TaskKind& kind)
    : TaskRecord(kind), core_(std::move(core)) {}

PoolTask::~PoolTask() {
    if (block) core_->memory().free(block);  // kept, or never submitted
    if (const TaskBytes::Lent* lent = bytes.lent())
        core_->memory().free_result(*lent->memory, lent->block);
}

PoolTaskRef PoolTask::create(const std::shared_ptr<PoolCore>& core, const TaskKind& kind,
                             const TaskOptions* options) {
    PoolTaskRef task(new PoolTask(core, kind));
    task->options = core->intake().default_options();
    task->priority = core->options().task.priority;
    if (options) {
        task->own_options_ = std::make_unique<TaskOptions>(merged(*options, core->options().task));
        task->options = task->own_options_.get();
        task->priority = task->options->priority;
        if (TokenUsePtr use = core->intake().wanted(task->options->uses))
            task->make_more().tokens = std::move(use);
    }
    return task;
}

void check_open(PoolCore& core) { core.intake().check_open(); }
void check_map(PoolCore& core, const MapOptions& options) {
    core.intake().check_open();
    check_map_options(options);
    (void)core.intake().wanted(options.task.uses);
}
std::shared_ptr<void> take_place(const std::shared_ptr<PoolCore>& core) {
    Intake& intake = core->intake();
    if (!intake.needs_place()) return core;
    return Place<Intake>::take({core, &intake});
}
void look_again(PoolCore& core) { core.desk().look_again(); }

std::shared_ptr<void> hold_open(const std::shared_ptr<PoolCore>& core) {
    struct OpenMap {
        explicit OpenMap(const std::shared_ptr<PoolCore>& held) : core(held), here(*held) {
            core->intake().begin_map();
        }
        ~OpenMap() { core->intake().end_map(); }
        const std::shared_ptr<PoolCore> core;
        const InPool here;
    };
    return std::make_shared<OpenMap>(core);
}

// A task that was made on another host has its name already.
void PoolTask::submit(const PoolTaskRef& task, TaskSink* sink, bool begun) {
    if (lines_name_tasks(task->core_->options()) && task->serial == 0) {
        TaskWriter writer(*task);
        writer.truncate(task->bytes.size());  // it goes on behind what is there
        append_task_name(writer, task->core_->view().task_name(*task));
    }
    // A part of a chunk may be wanted once more, when all of it is done.
    if (task->is_chunk() && task->runs_items_again()) task->keep_arguments();
    task->core_->intake().submit(task, sink, begun);
}

void submit_late(const PoolTaskRef& task, std::unique_ptr<LateArguments> arguments, bool begun) {
    if (lines_name_tasks(task->core().options()))
        append_task_name(arguments->archive().buffer(), task->core().view().task_name(*task));
    task->core().intake().submit_late(task, std::move(arguments), begun);
}

bool in_task_beside(const TaskState& task) {
    const std::shared_ptr<NestedPool>* runs = task_context()->pool;
    return runs && (*runs)->has(task);
}

void PoolTask::take_arguments(std::uint64_t its_block, TaskBytes& its_bytes,
                              TaskDescriptors& its_descriptors) {
    if (!its_descriptors.empty()) make_more().descriptors.swap(its_descriptors);
    block = its_block;
    std::swap(bytes, its_bytes);
}

TaskRecord::KeptArguments::~KeptArguments() {
    if (block) core->memory().free(block);
}

void PoolTask::keep_arguments() {
    if (kept()) return;
    auto keeps = std::make_shared<KeptArguments>();
    keeps->core = core_;
    keeps->size = bytes.size();
    if (!block) {
        std::span<const std::byte> own = bytes.view();
        keeps->inline_bytes.assign(own.begin(), own.end());
    }
    More& mine = make_more();
    mine.kept_place.resize(1);
    keeps->block = std::exchange(block, 0);  // from here on nothing throws
    keeps->descriptors.swap(mine.descriptors);
    mine.kept = std::move(keeps);
}

PoolTask::ArgumentView PoolTask::argument_view() const {
    if (!more || !more->kept) return {block, bytes.size(), bytes.view().data(), &descriptors()};
    const KeptArguments& kept = *more->kept;
    return {kept.block, kept.size, kept.inline_bytes.data(), &kept.descriptors};
}

PoolTaskRef PoolTask::part(std::uint32_t from, std::uint32_t to) {
    PoolTaskRef task(new PoolTask(core_, {*id, *entry, function}));
    keep_arguments();
    More& its = task->make_more();
    its.kept = more->kept;
    its.kept_place.resize(1);
    task->options = options;
    if (own_options_) {
        task->own_options_ = std::make_unique<TaskOptions>(*own_options_);
        task->options = task->own_options_.get();
        its.tokens = core_->intake().wanted(task->options->uses);
    }
    task->priority = priority;
    its.items.begin = from;
    its.items.end = to;
    its.items.first = items().first;
    return task;
}

PoolTaskRef PoolTask::run_item_again(const PoolTaskRef& task, std::uint32_t item,
                                     const std::exception_ptr& error) {
    const TaskOptions* options = task->options;
    if (!options || task->failures.attempts + 1u >= options->retry.max_attempts) return {};
    if (!wants_retry(options->retry, error)) return {};
    PoolTaskRef part = task->part(task->items().begin + item, task->items().begin + item + 1);
    part->failures.attempts = static_cast<std::uint16_t>(task->failures.attempts + 1);
    part->failures.crashes = task->failures.crashes;
    part->failures.out_of_memory = task->failures.out_of_memory;
    task->core_->intake().submit_again(part);
    return part;
}

TaskWriter::TaskWriter(PoolTask& task) : task_(task) {
    if (task.block)
        set_window(task.core().memory().data(task.block), 0, Arena::capacity(task.block));
    else
        set_window(task.bytes.data(), 0, task.bytes.capacity());
}

// Doubles, and so copies each byte about once; a large piece gets exactly what it needs.
void TaskWriter::grow(std::size_t more) {
    std::size_t used = size();
    if (used + more <= TaskBytes::kWide) {
        TaskBytes wider;
        std::byte* data = wider.make_room(TaskBytes::kWide);
        std::memcpy(data, begin(), used);
        task_.bytes = std::move(wider);
        return set_window(data, used, TaskBytes::kWide);
    }
    ArgumentMemory& memory = task_.core().memory();
    BlockId larger = memory.allocate(std::max(used + more, 2 * capacity()));
    std::byte* data = memory.data(larger);
    std::memcpy(data, begin(), used);
    if (task_.block)
        memory.free(task_.block);
    else
        (void)task_.bytes.make_room(0);
    task_.block = larger;
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
    return items().first + items().begin + core_->desk().finished_items(*this);
}

bool PoolTask::running() { return core_->desk().running(*this); }
bool PoolTask::cancel() { return core_->desk().cancel(*this, true); }

void PoolTask::cancel_parts(bool running_too) {
    (void)core_->desk().cancel(*this, running_too);
    const Split* parts = done() ? split() : nullptr;
    if (!parts) return;
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

// A chunk that was split has the results of its first items, whatever befell the others.
std::span<const std::byte> PoolTask::result() const {
    require_done(*this);
    if (!has_value) std::rethrow_exception(error());
    return bytes.view();
}

std::exception_ptr PoolTask::error() const {
    require_done(*this);
    if (has_value) return nullptr;
    if (std::exception_ptr failure = bytes.failure()) return failure;
    try {
        InputArchive archive(bytes.view());
        return load_exception(archive);
    } catch (...) {
        return std::current_exception();
    }
}

const TaskOutput* PoolTask::output() const {
    static const TaskOutput nothing;
    require_done(*this);
    if (core_->options().output == Output::pass) return nullptr;
    if (!output_lost) return more && more->output ? more->output.get() : &nothing;
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
