#include <sidestep/detail/local_task.hpp>

#include <climits>
#include <stdexcept>
#include <utility>

#include <sidestep/pool_errors.hpp>

#include "spare_errors.hpp"
#include "sys/fork_page.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {
namespace {

// What sleepers_ says: nobody sleeps, or somebody does, and how often one of them was called to run
// a nested task (WaitScope); or it is done.
constexpr std::uint32_t kSomebodySleeps = 1, kDone = 2, kCall = 4;

}  // namespace

void WordMutex::lock_slowly() noexcept {
    // SYNC(word_mutex): acquire, pairs with unlock().
    while (word_.exchange(kAwaited, std::memory_order_acquire) != kFree)
        (void)sys::futex_wait(word_, kAwaited, {});
}

void WordMutex::wake_one() noexcept { sys::futex_wake(word_, 1); }

bool LocalTaskBase::start() {
    State was = State::waiting;
    if (state_.compare_exchange_strong(was, State::running)) return true;
    if (was != State::cancelled)
        throw InvalidStateError("the task was begun before: a task runs once");
    std::lock_guard until_it_is_done(mutex_);
    return false;
}

void LocalTaskBase::throw_has_ended() const {
    if (state_ == State::cancelled)
        throw InvalidStateError("the task was cancelled: it can have no result");
    throw InvalidStateError("the task has a result already: it is set once");
}

void LocalTaskBase::fail(std::exception_ptr error) {
    finish([&] { failure_ = std::move(error); });
}

bool LocalTaskBase::try_fail(std::exception_ptr error) {
    return try_finish([&] { failure_ = std::move(error); });
}

bool LocalTaskBase::fail_cancelled(std::exception_ptr error) {
    std::unique_lock lock(mutex_);
    if (has_ended()) return false;
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

void LocalTaskBase::complete(std::unique_lock<WordMutex>& lock, State end) noexcept {
    state_ = end;
    Callbacks callbacks;
    std::unique_ptr<std::function<void()>> stop_work = std::move(stop_work_);
    mark_done();
    if (sleepers_.load(std::memory_order_relaxed) & kSomebodySleeps) {
        sleepers_.store(kDone, std::memory_order_relaxed);  // the futex is all that looks at it
        sys::futex_wake(sleepers_, INT_MAX);
    }
    if (listeners_) {
        listeners_->tell_queues();
        callbacks.swap(listeners_->callbacks);
    }
    lock.unlock();
    if (end == State::cancelled && stop_work) (*stop_work)();
    if (!callbacks.empty()) run_callbacks(std::move(callbacks));
}

bool LocalTaskBase::is_forked_copy() const {
    return owner_ != ForkGeneration::none &&
           fork_page().generation.load(std::memory_order_relaxed) != owner_;
}

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
                         sleepers_.fetch_add(kCall, std::memory_order_relaxed);
                         sys::futex_wake(sleepers_, INT_MAX);
                     }});
    for (;;) {
        std::uint32_t seen = 0;
        {
            std::lock_guard lock(mutex_);
            if (done()) return true;
            seen = sleepers_.load(std::memory_order_relaxed) | kSomebodySleeps;
            sleepers_.store(seen, std::memory_order_relaxed);
        }
        // Who calls, or completes it, after that look changes the word.
        if (scope.is_called())
            scope.serve();
        else if (sys::futex_wait(sleepers_, seen, deadline) == sys::Wake::timeout)
            return done();
    }
}

bool LocalTaskBase::running() { return !is_forked_copy() && state_ == State::running; }

bool LocalTaskBase::cancel() {
    if (is_forked_copy()) return false;
    std::unique_lock lock(mutex_);
    ask_to_stop();
    State was = State::waiting;  // start() may come between
    if (state_.compare_exchange_strong(was, State::cancelled) ||
        (was == State::running && stop_work_)) {
        failure_ = spare_errors().cancelled;
        complete(lock, State::cancelled);
        return true;
    }
    return state_ == State::cancelled;
}

bool LocalTaskBase::cancelled() const { return done() && state_ == State::cancelled; }

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
