#include <sidestep/detail/local_task.hpp>
#include <sidestep/detail/nested_pool.hpp>
#include <sidestep/this_task.hpp>

#include <utility>

#include "thread_pool_core.hpp"

namespace sidestep::inline v0::detail {

WaitScope::WaitScope(NestedWait wait) : wait_(std::move(wait)) {
    const std::shared_ptr<NestedPool>* pool = task_context()->pool;
    if (pool && (*pool)->begin_wait(wait_)) nested_ = pool->get();
    threads_ = ThreadPoolCore::of_this_thread();
    if (threads_) threads_->team().begin_wait();
}

bool WaitScope::is_called() const noexcept { return nested_ && nested_->is_called(); }
void WaitScope::serve() { nested_->serve(wait_); }

WaitScope::~WaitScope() {
    if (threads_) threads_->team().end_wait();
    if (nested_) nested_->end_wait();
}

}  // namespace sidestep::detail
