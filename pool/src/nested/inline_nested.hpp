// this_task::pool() in a pool without workers: a nested task runs in submit().
#pragma once

#include <memory>
#include <stdexcept>

#include <sidestep/detail/nested_pool.hpp>

namespace sidestep::inline v0::detail {

class InlineNested final : public NestedPool {
  public:
    explicit InlineNested(std::weak_ptr<PoolCore> core) : core_(std::move(core)) {}

    TaskRef submit(NestedOrder& order) override {
        std::shared_ptr<PoolCore> core = core_.lock();
        if (!core) throw std::logic_error("this_task::pool(): the pool has ended");
        PoolTaskRef task = PoolTask::create(core, order.kind, order.options);
        {
            TaskWriter writer(*task);
            writer.write(order.arguments.begin(), order.arguments.size());
            for (int fd : order.fds.numbers()) (void)writer.put(fd);
        }
        PoolTask::submit(task, nullptr, true);
        return TaskRef(std::move(task));
    }
    unsigned processes() const override { return 0; }
    bool has(const TaskState& task) const override {
        const std::shared_ptr<PoolCore>* its = task.process_pool();
        return its && *its == core_.lock();
    }

  private:
    const std::weak_ptr<PoolCore> core_;
};

}  // namespace sidestep::detail
