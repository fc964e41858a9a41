#include "nested/thread_nested.hpp"

#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include <sidestep/detail/thread_job.hpp>

#include "nested/bytes_task.hpp"
#include "task/local_fds.hpp"

namespace sidestep::inline v0::detail {
namespace {

class NestedJob final : public BytesTask<ThreadJob> {
  public:
    explicit NestedJob(const NestedOrder& order)
        : kind_(order.kind),
          arguments_(order.arguments.bytes().begin(), order.arguments.bytes().end()),
          fds_(std::make_unique<TaskDescriptors>()) {
        for (int fd : order.fds.numbers()) (void)fds_->put(fd);
    }
    bool runs_again() const override { return true; }
    const void* function() const override { return kind_.function; }
    void drop_call() noexcept override {
        arguments_ = {};
        fds_ = nullptr;
    }
    void run(bool /*last*/) override {
        LocalFds fds(*fds_);
        InputArchive input(arguments_, &fds);
        auto result = std::make_shared<HeapBuffer>();
        OutputArchive output(*result);
        kind_.entry.run(input, output);
        set_bytes(result, result->bytes());
    }

  private:
    const TaskKind kind_;
    std::vector<std::byte> arguments_;
    std::unique_ptr<TaskDescriptors> fds_;
};

class ThreadNested final : public NestedPool {
  public:
    ThreadNested(std::weak_ptr<ThreadPoolCore> core, unsigned threads)
        : core_(std::move(core)), threads_(threads) {}

    TaskRef submit(NestedOrder& order) override {
        std::shared_ptr<ThreadPoolCore> core = core_.lock();
        if (!core) throw std::logic_error("this_task::pool(): the thread pool has ended");
        ThreadJobPtr job(new NestedJob(order));
        TaskRef task = task_of(*job);
        submit_job(*core, std::move(job), order.options, true);
        return task;
    }
    unsigned processes() const override { return threads_; }
    bool has(const TaskState& task) const override {
        const std::shared_ptr<ThreadPoolCore> its = task.thread_pool();
        return its && its == core_.lock();
    }

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
