// A pool without workers: tasks run inside submit(), in this process, through the same archives.
#include <new>
#include <vector>

#include <sidestep/detail/call_times.hpp>
#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/this_task.hpp>

#include "pool_core.hpp"
#include "spare_errors.hpp"

namespace sidestep::inline v0::detail {
namespace {

// The descriptors of a task's arguments, for the same process.
class InlineFds final : public FdSource {
  public:
    explicit InlineFds(const TaskDescriptors& fds) : fds_(&fds) {}
    int get(std::uint64_t number) override { return Fd::duplicate_of(find(number)).release(); }

  private:
    int find(std::uint64_t number) const {
        for (const auto& each : fds_->lasting)
            if (number == (TaskDescriptors::kLasting | each.identity)) return each.fd;
        if (number < fds_->numbers.size()) return fds_->numbers[number];
        throw SerializationError("the task's arguments name a descriptor that did not come");
    }

    const TaskDescriptors* fds_;
};

}  // namespace

// close() may come in another thread at any time.
bool PoolCore::may_retry_now(const PoolTask& task) const {
    Lock lock(mutex_);
    return may_retry(task, FailureKind::error);
}

void PoolCore::run_inline(PoolTask& task) {
    InPool here(*this);
    HeapBuffer result;
    std::exception_ptr error;
    PoolTask::ArgumentView arguments = task.argument_view();
    const std::byte* data =
        arguments.block ? argument_data(arguments.block) : arguments.inline_bytes;
    for (bool again = true; again;) {
        TaskContext context;
        context.number = context.item = task.serial_;
        context.seed = options_.seed;
        context.attempt = task.attempts_ + 1u;
        context.worker = 0;
        context.items_begin = task.items_begin_;
        context.items_end = task.items_end_;
        TaskScope scope(context);
        result.clear();
        error = nullptr;
        std::uint64_t begun = steady_now_ns();
        try {
            InlineFds fds(*arguments.fds);
            InputArchive input({data, arguments.size}, &fds);
            OutputArchive output(result);
            task.entry_->run(input, output);
        } catch (...) {
            pass_on_forced_unwind();
            error = std::current_exception();
        }
        note_inline(task, begun, error != nullptr);
        again = error && may_retry_now(task) && wants_retry(task.options_->retry, error);
        if (again) pause_here(retry_pause(task.options_->retry, ++task.attempts_));
    }
    std::vector<std::byte> bytes;
    try {
        bytes.assign(result.bytes().begin(), result.bytes().end());
    } catch (const std::bad_alloc&) {
        error = spare_errors().no_memory;
    }
    Hold hold(mutex_, *this);
    if (error) return task_end_.fail(&task, error, hold);
    task.own_result_ = std::move(bytes);
    task.result_size_ = result.size();
    task.items_done_ = task.items_end_ - task.items_begin_;
    task.has_value_ = true;
    task_end_.complete(&task, hold);
}

}  // namespace sidestep::detail
