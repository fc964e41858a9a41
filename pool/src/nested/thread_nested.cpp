#include "nested/thread_nested.hpp"

#include <stdexcept>
#include <utility>
#include <vector>

#include <sidestep/thread_stream.hpp>

#include "nested/bytes_task.hpp"
#include "task/local_fds.hpp"

namespace sidestep::inline v0::detail {
namespace {

class NestedJob final : public ThreadJob {
  public:
    NestedJob(Ref<BytesTask> task, const NestedOrder& order)
        : task_(std::move(task)),
          kind_(order.kind),
          arguments_(order.arguments.bytes().begin(), order.arguments.bytes().end()) {
        for (int fd : order.fds.numbers()) (void)fds_.put(fd);
    }
    LocalTaskBase& task() override { return *task_; }
    bool runs_again() const override { return true; }
    const void* function() const override { return kind_.function; }
    void run(bool /*last*/) override {
        LocalFds fds(fds_);
        InputArchive input(arguments_, &fds);
        auto result = std::make_shared<HeapBuffer>();
        OutputArchive output(*result);
        kind_.entry.run(input, output);
        task_->set_bytes(result, result->bytes());
    }

  private:
    const Ref<BytesTask> task_;
    const TaskKind kind_;
    const std::vector<std::byte> arguments_;
    TaskDescriptors fds_;
};

class ThreadNested final : public NestedPool {
  public:
    ThreadNested(std::weak_ptr<ThreadPoolCore> core, unsigned threads)
        : core_(std::move(core)), threads_(threads) {}

    TaskRef submit(NestedOrder& order) override {
        std::shared_ptr<ThreadPoolCore> core = core_.lock();
        if (!core) throw std::logic_error("this_task::pool(): the thread pool has ended");
        Ref<BytesTask> task = BytesTask::create();
        submit_job(*core, std::make_unique<NestedJob>(task, order), nullptr, true);
        return TaskRef(std::move(task));
    }
    unsigned processes() const override { return threads_; }

  private:
    const std::weak_ptr<ThreadPoolCore> core_;
    const unsigned threads_;
};

}  // namespace

std::shared_ptr<NestedPool> make_thread_nested(std::weak_ptr<ThreadPoolCore> core,
                                               unsigned threads) {
    return std::make_shared<ThreadNested>(std::move(core), threads);
}

}  // namespace sidestep::detail
