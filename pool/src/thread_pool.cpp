#include <sidestep/thread_pool.hpp>

#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "nested/thread_nested.hpp"
#include "thread_pool_core.hpp"

namespace sidestep::inline v0 {

ThreadPool::ThreadPool(ThreadPoolOptions options)
    : core_(std::make_shared<detail::ThreadPoolCore>(std::move(options))),
      exceptions_at_start_(std::uncaught_exceptions()) {
    core_->become_known();
    core_->runner().set_nested(detail::make_thread_nested(core_, processes()));
}

ThreadPool::~ThreadPool() {
    if (!core_->owned_here()) {  // a forked copy has no threads to join: nothing is touched
        core_->keep_for_ever();
        return;
    }
    core_->be_destroyed();
    if (std::uncaught_exceptions() > exceptions_at_start_) core_->cancel_waiting();
    if (!core_->in_own_thread())
        core_->join();
    else if (!detail::join_elsewhere(core_))
        core_->keep_for_ever();  // the process is ending, or gives no thread
}

void ThreadPool::close() { core_->close(); }
void ThreadPool::terminate() { core_->terminate(); }
void ThreadPool::join() { core_->join(); }
bool ThreadPool::join_for(Timeout timeout) {
    return core_->join_until(detail::deadline_after(timeout));
}
void ThreadPool::shutdown(ShutdownOptions options) {
    core_->close();
    if (options.cancel_futures) core_->cancel_waiting();
    if (options.wait) core_->join();
}
unsigned ThreadPool::processes() const { return core_->most_threads(); }
unsigned ThreadPool::threads() const { return core_->team().size(); }
unsigned ThreadPool::idle_threads() const { return core_->team().idle(); }
PoolStats ThreadPool::stats() const { return core_->insight().stats(); }
void ThreadPool::trace(const std::string& path) { core_->insight().trace(path); }
void ThreadPool::trace_stop() { core_->insight().trace_stop(); }
void ThreadPool::run_in_background(std::function<void()> work) {
    core_->run_in_background(std::move(work));
}

}  // namespace sidestep
