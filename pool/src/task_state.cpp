#include <sidestep/detail/completion_queue.hpp>
#include <sidestep/detail/task_state.hpp>

#include <fmt/format.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <stdexcept>

#include <sidestep/detail/local_task.hpp>
#include <sidestep/detail/then.hpp>
#include <sidestep/future.hpp>

#include "sys/error.hpp"
#include "sys/fd.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

CompletionQueue::CompletionQueue(Descriptor descriptor) {
    if (descriptor == Descriptor::no) return;
    fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd_ < 0) throw_errno(errno, "eventfd");
}

CompletionQueue::~CompletionQueue() { Fd close_it(fd_); }

void CompletionQueue::expect() {
    std::lock_guard lock(mutex_);
    std::size_t needed = tags_.size() + expected_ + 1;
    if (tags_.capacity() < needed) tags_.reserve(std::max(needed, 2 * tags_.capacity()));
    ++expected_;
}

void CompletionQueue::expect_no_more() noexcept {
    std::lock_guard lock(mutex_);
    --expected_;
}

void CompletionQueue::push(std::size_t tag) {
    std::lock_guard lock(mutex_);
    tags_.push_back(tag);
    if (fd_ >= 0 && next_ + 1 == tags_.size()) ::eventfd_write(fd_, 1);
    if (expected_ > 0) --expected_;
    pushed_.notify_one();
}

bool CompletionQueue::empty() const {
    std::lock_guard lock(mutex_);
    return next_ == tags_.size();
}

std::optional<std::size_t> CompletionQueue::pop() {
    std::lock_guard lock(mutex_);
    if (next_ == tags_.size()) return {};
    std::size_t tag = tags_[next_++];
    eventfd_t was = 0;
    if (fd_ >= 0 && next_ == tags_.size()) ::eventfd_read(fd_, &was);
    if (2 * next_ >= tags_.size()) {  // keeps its room
        tags_.erase(tags_.begin(), tags_.begin() + static_cast<std::ptrdiff_t>(next_));
        next_ = 0;
    }
    return tag;
}

bool CompletionQueue::wait(const Deadline& deadline) {
    if (!empty()) return true;
    if (is_over(deadline)) return false;
    WaitScope scope({nullptr, [this] {
                         std::lock_guard lock(mutex_);
                         pushed_.notify_all();
                     }});
    std::unique_lock lock(mutex_);
    auto may_go_on = [&] { return next_ < tags_.size() || scope.is_called(); };
    for (;;) {
        if (!deadline)
            pushed_.wait(lock, may_go_on);
        else if (!pushed_.wait_until(lock, *deadline, may_go_on))
            return false;
        if (next_ < tags_.size()) return true;
        lock.unlock();
        scope.serve();
        lock.lock();
    }
}

void TaskListeners::add(const std::shared_ptr<CompletionQueue>& queue, std::size_t tag) {
    queue->expect();
    queues.emplace_back(queue, tag);
}

void TaskListeners::tell_queues() const noexcept {
    for (const auto& [queue, tag] : queues) queue->push(tag);
}

void TaskListeners::forget(const std::shared_ptr<CompletionQueue>& queue) {
    std::erase_if(queues, [&](const auto& entry) { return entry.first == queue; });
}

void run_callbacks(Callbacks callbacks) noexcept {
    for (std::function<void()>& callback : callbacks) {
        try {
            callback();
        } catch (const std::exception& error) {
            std::fprintf(stderr, "sidestep: a future's callback threw %s\n", error.what());
        } catch (...) {
            std::fprintf(stderr, "sidestep: a future's callback threw\n");
        }
        callback = nullptr;  // what it captured goes now, one after the other
    }
}

std::shared_ptr<ThreadPoolCore> TaskState::thread_pool() const { return {}; }

bool TaskState::wait_until(const std::function<bool()>& ready, const Deadline&) { return ready(); }

void throw_empty_future() {
    throw std::logic_error("this Future is empty: it was default-constructed or moved from");
}

void throw_get_timeout(Timeout timeout) {
    throw TimeoutError(
        fmt::format("the task has no result after {} ms; it goes on, and get() can be called again",
                    std::chrono::duration_cast<std::chrono::milliseconds>(timeout.time()).count()));
}

void throw_no_pool() {
    throw std::logic_error(
        "Future::then(): this future is no task of a pool that is there (it is a Promise's, "
        "map_async's, when_all's, or its ThreadPool is gone): say which pool runs it, by "
        "pool.submit(f, future)");
}

void throw_not_sendable() {
    throw std::logic_error(
        "Future::then(): this future is a Pool's, and the callable (or the value) cannot be sent "
        "to its processes: a lambda with captures cannot. Use sidestep::bind(f, args...), or a "
        "ThreadPool's submit(f, future)");
}

const TaskOutput& output_of(const TaskState& task) {
    if (const TaskOutput* output = task.output()) return *output;
    throw std::logic_error(
        "this future's output is not captured: make the pool with PoolOptions{.output = "
        "Output::capture}; map_async(), threads and promises have none");
}

std::string describe_task(TaskState& task) {
    if (!task.poll()) return task.running() ? "Future: running" : "Future: waiting";
    if (task.cancelled()) return "Future: cancelled";
    if (!task.error()) return "Future: finished with a value";
    try {
        std::rethrow_exception(task.error());
    } catch (const std::exception& error) {
        return fmt::format("Future: finished with an error: {}", error.what());
    } catch (...) {
        return "Future: finished with an error";
    }
}

}  // namespace sidestep::detail
