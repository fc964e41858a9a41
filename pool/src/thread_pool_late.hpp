// A job of a ThreadPool that waits for others.
#pragma once

#include <exception>
#include <utility>
#include <vector>

#include "task/dependents.hpp"
#include "thread_pool_core.hpp"

namespace sidestep::inline v0::detail {

class ThreadPoolCore::Late final : public Dependents::Waiting {
  public:
    // Its own task comes last: who cancels that ends this.
    Late(ThreadPoolCore& core, std::vector<TaskRef> needs, std::size_t count, ThreadJob& own)
        : Waiting(std::move(needs), count), task(own), core_(core) {}
    void begin() noexcept override { core_.queue_late(*this, nullptr, false); }
    // A thread of the pool makes that its result: callbacks run where they do otherwise.
    void fail(const std::exception_ptr& error, bool cancelled) noexcept override {
        core_.queue_late(*this, error, cancelled);
    }

    LocalTaskBase& task;
    ThreadJobPtr job;  // guarded by the pool's mutex; null: it waits no more

  private:
    ThreadPoolCore& core_;
};

}  // namespace sidestep::detail
