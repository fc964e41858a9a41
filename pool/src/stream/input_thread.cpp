#include <sidestep/detail/input_thread.hpp>

#include <chrono>
#include <stdexcept>
#include <utility>

#include <sidestep/detail/completion_queue.hpp>

#include "service_thread.hpp"

namespace sidestep::inline v0::detail {

InputThread::InputThread(std::function<bool()> pull, std::function<void()> keep)
    : pull_(std::move(pull)), keep_(std::move(keep)), thread_(std::make_unique<ServiceThread>()) {
    thread_->start("sidestep-input", ServiceThread::Runs::users_code, [this] { run(); });
}

InputThread::~InputThread() {
    {
        std::lock_guard lock(mutex_);
        leaves_ = true;
        asked_.notify_one();
    }
    thread_->join();
}

void InputThread::run() {
    std::unique_lock lock(mutex_);
    for (;;) {
        asked_.wait(lock, [this] { return leaves_ || kept_ < wanted_; });
        if (leaves_) return;
        lock.unlock();
        bool got = false;
        std::exception_ptr error;
        try {
            got = pull_();
        } catch (...) {
            error = std::current_exception();
            if (!error) {  // pthread_exit(): this thread goes
                lock.lock();
                note_pull(false, std::make_exception_ptr(std::runtime_error(
                                     "the input has ended its thread (pthread_exit)")));
                throw;
            }
        }
        lock.lock();
        if (got) try {
                keep_();
            } catch (...) {  // no memory to keep it: the input ends there, and says so
                got = false;
                error = std::current_exception();
            }
        note_pull(got, error);
        if (ended_) return;
    }
}

// With the mutex held.
void InputThread::note_pull(bool got, std::exception_ptr error) {
    overdue_ = false;
    if (got) ++kept_;
    ended_ = !got;
    error_ = std::move(error);
    if (ended_ || (tell_at_ > 0 && kept_ >= tell_at_)) pulled_.notify_one();
    if (wake_) std::exchange(wake_, nullptr)->push(0);
}

void InputThread::await(std::size_t most, bool nothing_else) {
    static constexpr std::chrono::milliseconds kPause{1};
    std::unique_lock lock(mutex_);
    auto wait_for = [&](std::size_t items, auto wait) {
        tell_at_ = items;
        wait([this, items] { return ended_ || kept_ >= items; });
        tell_at_ = 0;
    };
    wanted_ = most;
    asked_.notify_one();
    if (!overdue_)
        wait_for(most, [&](auto done) { overdue_ = !pulled_.wait_for(lock, kPause, done); });
    if (nothing_else) wait_for(1, [&](auto done) { pulled_.wait(lock, done); });
    wanted_ = 0;
}

void InputThread::go_on(std::size_t most, std::shared_ptr<CompletionQueue> wake) {
    std::lock_guard lock(mutex_);
    if (ended_ || kept_ > 0) return wake->add(0);
    wake->expect();  // its thread must not throw
    wake_ = std::move(wake);
    wanted_ = most;
    asked_.notify_one();
}

void InputThread::rest() {
    std::lock_guard lock(mutex_);
    wanted_ = 0;
    if (wake_) std::exchange(wake_, nullptr)->expect_no_more();
}

std::size_t InputThread::available() {
    std::lock_guard lock(mutex_);
    return kept_;
}

bool InputThread::ended() {
    std::lock_guard lock(mutex_);
    return ended_;
}

void InputThread::rethrow_error() {
    std::unique_lock lock(mutex_);
    std::exception_ptr error = std::exchange(error_, nullptr);
    lock.unlock();
    if (error) std::rethrow_exception(error);
}

}  // namespace sidestep::detail
