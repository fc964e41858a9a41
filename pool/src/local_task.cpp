#include <sidestep/detail/local_task.hpp>

#include <unistd.h>

#include <climits>
#include <stdexcept>
#include <utility>

#include <sidestep/pool_errors.hpp>

#include "spare_errors.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

bool LocalTaskBase::start() {
    std::lock_guard lock(mutex_);
    if (state_ == State::cancelled) return false;
    if (state_ != State::waiting)
        throw InvalidStateError("the task was begun before: a task runs once");
    state_ = State::running;
    return true;
}

void LocalTaskBase::finish(const std::function<void()>& store) {
    std::unique_lock lock(mutex_);
    if (state_ == State::cancelled)
        throw InvalidStateError("the task was cancelled: it can have no result");
    if (state_ == State::finished)
        throw InvalidStateError("the task has a result already: it is set once");
    store();
    complete(lock, State::finished);
}

void LocalTaskBase::fail(std::exception_ptr error) {
    finish([&] { failure_ = std::move(error); });
}

bool LocalTaskBase::try_finish(const std::function<void()>& store) {
    std::unique_lock lock(mutex_);
    if (state_ == State::cancelled || state_ == State::finished) return false;
    store();
    complete(lock, State::finished);
    return true;
}

bool LocalTaskBase::try_fail(std::exception_ptr error) {
    return try_finish([&] { failure_ = std::move(error); });
}

bool LocalTaskBase::fail_cancelled(std::exception_ptr error) {
    std::unique_lock lock(mutex_);
    if (state_ == State::cancelled || state_ == State::finished) return false;
    failure_ = std::move(error);
    complete(lock, State::cancelled);
    return true;
}

void LocalTaskBase::time_out(std::exception_ptr error) {
    if (try_fail(std::move(error))) ask_to_stop();
}

void LocalTaskBase::ask_to_stop() noexcept {
    stop_.store(1, std::memory_order_relaxed);  // nothing hangs on it but the task's own decision
    sys::futex_wake(stop_, INT_MAX);
}

void LocalTaskBase::complete(std::unique_lock<std::mutex>& lock, State end) {
    state_ = end;
    Callbacks callbacks;
    std::function<void()> stop_work = std::exchange(stop_work_, nullptr);
    mark_done();
    changed_.notify_all();
    if (listeners_) {
        listeners_->tell_queues();
        callbacks.swap(listeners_->callbacks);
    }
    lock.unlock();
    if (end == State::cancelled && stop_work) stop_work();
    run_callbacks(std::move(callbacks));
}

bool LocalTaskBase::is_forked_copy() const { return owner_pid_ != 0 && owner_pid_ != ::getpid(); }

bool LocalTaskBase::wait(const Deadline& deadline) {
    if (done()) return true;
    if (is_forked_copy()) {
        if (deadline) return false;
        throw std::logic_error(
            "this future belongs to the process that made it, and this is a forked copy");
    }
    if (is_over(deadline)) return false;
    WaitScope scope({this, [this] {
                         std::lock_guard lock(mutex_);
                         changed_.notify_all();
                     }});
    std::unique_lock lock(mutex_);
    auto may_go_on = [&] { return done() || scope.is_called(); };
    for (;;) {
        if (!deadline)
            changed_.wait(lock, may_go_on);
        else if (!changed_.wait_until(lock, *deadline, may_go_on))
            return false;
        if (done()) return true;
        lock.unlock();
        scope.serve();
        lock.lock();
    }
}

bool LocalTaskBase::running() {
    if (is_forked_copy()) return false;
    std::lock_guard lock(mutex_);
    return state_ == State::running;
}

bool LocalTaskBase::cancel() {
    if (is_forked_copy()) return false;
    std::unique_lock lock(mutex_);
    ask_to_stop();
    if (state_ == State::waiting || (state_ == State::running && stop_work_)) {
        failure_ = spare_errors().cancelled;
        complete(lock, State::cancelled);
        return true;
    }
    return state_ == State::cancelled;
}

bool LocalTaskBase::cancelled() const {
    if (is_forked_copy()) return done() && state_ == State::cancelled;
    std::lock_guard lock(mutex_);
    return state_ == State::cancelled;
}

bool LocalTaskBase::listen(const std::shared_ptr<CompletionQueue>& queue, std::size_t tag) {
    if (is_forked_copy()) return false;
    std::lock_guard lock(mutex_);
    if (done()) return false;
    listeners().add(queue, tag);
    return true;
}

void LocalTaskBase::forget(const std::shared_ptr<CompletionQueue>& queue) {
    if (is_forked_copy()) return;
    std::lock_guard lock(mutex_);
    if (listeners_) listeners_->forget(queue);
}

bool LocalTaskBase::add_callback(std::function<void()>& callback) {
    if (is_forked_copy()) return false;
    std::lock_guard lock(mutex_);
    if (done()) return false;
    listeners().callbacks.push_back(std::move(callback));
    return true;
}

}  // namespace sidestep::detail
