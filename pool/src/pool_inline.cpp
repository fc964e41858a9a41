// A pool without workers: tasks run inside submit(), in this process, through the same archives.
#include <cxxabi.h>

#include <sidestep/this_task.hpp>

#include "pool_core.hpp"

namespace sidestep::detail {
namespace {

// The descriptors of a task's arguments, for the same process.
class InlineFds final : public FdSource {
  public:
    explicit InlineFds(const std::vector<int>& numbers) : numbers_(&numbers) {}
    int get(std::uint64_t number) override {
        if (number >= numbers_->size())
            throw SerializationError("the task's arguments name a descriptor that did not come");
        return Fd::duplicate_of((*numbers_)[number]).release();
    }

  private:
    const std::vector<int>* numbers_;
};

}  // namespace

void PoolCore::run_inline(PoolTask& task, Garbage& garbage) {
    HeapBuffer result;
    std::exception_ptr error;
    const std::byte* data = task.argument_block_ ? args_.data(task.argument_block_) : task.bytes_;
    do {
        TaskContext context;
        context.number = context.item = task.serial_;
        context.seed = options_.seed;
        context.attempt = task.attempts_ + 1u;
        context.worker = 0;
        TaskScope scope(context);
        result.clear();
        error = nullptr;
        try {
            InlineFds fds(task.descriptors_.numbers);
            InputArchive input({data, task.arguments_.size()}, &fds);
            OutputArchive output(result);
            task.entry_->run(input, output);
        } catch (abi::__forced_unwind&) {
            throw;
        } catch (...) {
            error = std::current_exception();
        }
    } while (error && may_retry(task, FailureKind::error) && wants_retry(task, error) &&
             ++task.attempts_);
    Lock lock(mutex_);
    if (error) return fail(&task, error, garbage);
    task.inline_result_.assign(result.bytes().begin(), result.bytes().end());
    task.has_value_ = true;
    complete(&task, garbage);
}

}  // namespace sidestep::detail
