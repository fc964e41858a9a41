#include <sidestep/task_state.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include <sidestep/future.hpp>
#include <sidestep/remote_error.hpp>

#include "pool_core.hpp"

namespace sidestep::detail {

static_assert(TaskState::kInline == TaskSlot::kInline);

TaskState::TaskState(std::shared_ptr<PoolCore> core, const TaskId& id, const TaskEntry& entry,
                     const void* function)
    : core_(std::move(core)), id_(id), entry_(&entry), function_(function), arguments_(*this) {}

TaskState::~TaskState() {
    if (argument_block_) core_->free_argument(argument_block_);  // never submitted
    if (result_block_) core_->free_result(*memory_, result_block_);
}

TaskRef TaskState::create(std::shared_ptr<PoolCore> core, const TaskId& id, const TaskEntry& entry,
                          const void* function) {
    return TaskRef(new TaskState(std::move(core), id, entry, function));
}

void TaskState::submit(const TaskRef& task, Completions* sink) { task->core_->submit(task, sink); }

// Doubles, and so copies each byte about once; a large piece gets exactly what it needs.
void TaskState::Arguments::grow(std::size_t more) {
    PoolCore& core = *task_->core_;
    std::size_t used = size();
    BlockId larger = core.allocate_argument(std::max(used + more, 2 * capacity()));
    std::byte* data = core.argument_data(larger);
    std::memcpy(data, begin(), used);
    if (task_->argument_block_) core.free_argument(task_->argument_block_);
    task_->argument_block_ = larger;
    set_window(data, used, Arena::capacity(larger));
}

void TaskState::Descriptors::clear() {
    for (int number : numbers) Fd close_it(number);
    numbers.clear();
}

std::uint64_t TaskState::Descriptors::put(int fd) {
    numbers.reserve(numbers.size() + 1);
    numbers.push_back(Fd::duplicate_of(fd).release());
    return numbers.size() - 1;
}

bool TaskState::wait(const Deadline& deadline) {
    return done() || core_->wait_done(*this, deadline);
}

bool TaskState::poll() {
    if (!done()) core_->poll();
    return done();
}

bool TaskState::cancel() { return core_->cancel(*this); }

namespace {
void require_done(const TaskState& task) {
    if (!task.done())
        throw std::logic_error(
            "this future belongs to the process that made it, and this is a forked copy");
}
}  // namespace

std::span<const std::byte> TaskState::result() const {
    if (std::exception_ptr e = error()) std::rethrow_exception(e);
    const std::byte* data =
        result_block_ ? memory_->results.data() + Arena::offset(result_block_) : bytes_;
    return {data, result_size_};
}

std::exception_ptr TaskState::error() const {
    require_done(*this);
    if (failure_ || has_value_) return failure_;
    const std::byte* data =
        result_block_ ? memory_->results.data() + Arena::offset(result_block_) : bytes_;
    try {
        InputArchive archive({data, result_size_});
        return load_exception(archive);
    } catch (...) {
        return std::current_exception();
    }
}

Completions::Completions(std::shared_ptr<PoolCore> core) : core_(std::move(core)) {}
Completions::~Completions() { core_->forget(*this); }
TaskRef Completions::next() { return core_->wait_next(*this); }

void throw_empty_future() {
    throw std::logic_error("this Future is empty: it was default-constructed or moved from");
}

void throw_get_timeout(std::chrono::nanoseconds timeout) {
    throw TimeoutError(
        fmt::format("the task has no result after {} ms; it goes on, and get() can be called again",
                    std::chrono::duration_cast<std::chrono::milliseconds>(timeout).count()));
}

Deadline deadline_after(std::chrono::nanoseconds timeout) {
    auto now = sys::Clock::now();
    auto longest = sys::Clock::time_point::max() - now;
    return timeout >= longest ? Deadline() : now + timeout;
}

}  // namespace sidestep::detail
