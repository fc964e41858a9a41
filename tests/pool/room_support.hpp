// For tests of a pool's parts: tasks of a pool that was never started.
#pragma once

#include <memory>
#include <vector>

#include "pool_core.hpp"

namespace test {

namespace mp = sidestep;
using mp::detail::PoolCore;
using mp::detail::PoolTask;
using mp::detail::PoolTaskRef;

// Makes tasks, and keeps them.
class Tasks {
  public:
    PoolTask* make(const mp::TaskOptions& options = {}) {
        static constexpr mp::detail::TaskEntry entry{mp::detail::TaskEntry::kMagic, 1, nullptr,
                                                     "a test's task"};
        static const mp::detail::TaskId id{};
        made_.push_back(PoolTask::create(core_, {id, entry}, &options));
        return made_.back().get();
    }

  private:
    static mp::PoolOptions without_workers() {
        mp::PoolOptions options;
        options.processes = 0;
        return options;
    }
    std::shared_ptr<PoolCore> core_ = std::make_shared<PoolCore>(without_workers());
    std::vector<PoolTaskRef> made_;
};

}  // namespace test
