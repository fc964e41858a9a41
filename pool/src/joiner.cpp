#include "joiner.hpp"

#include <utility>

namespace sidestep::inline v0::detail {

bool Joiner::wait(std::function<void()> join, const sys::Deadline& deadline) {
    std::unique_lock lock(mutex_);
    if (!has_ended_ && !thread_.joinable())
        thread_.start("sidestep-join", ServiceThread::Runs::users_code,
                      [this, join = std::move(join)] { run(join); });
    auto ended = [this] { return has_ended_; };
    if (!deadline)
        ended_.wait(lock, ended);
    else if (!ended_.wait_until(lock, *deadline, ended))
        return false;
    ServiceThread finished;
    finished.swap(thread_);
    std::exception_ptr error = error_;
    lock.unlock();
    if (finished.joinable()) finished.join();
    if (error) std::rethrow_exception(error);
    return true;
}

void Joiner::run(const std::function<void()>& join) noexcept {
    std::exception_ptr error;
    try {
        join();
    } catch (...) {
        error = std::current_exception();
    }
    std::lock_guard lock(mutex_);
    error_ = std::move(error);
    has_ended_ = true;
    ended_.notify_all();
}

void Joiner::stop() {
    ServiceThread finished;
    {
        std::lock_guard lock(mutex_);
        finished.swap(thread_);
    }
    if (finished.joinable()) finished.join();
    std::lock_guard lock(mutex_);
    has_ended_ = true;
    error_ = nullptr;
    ended_.notify_all();
}

}  // namespace sidestep::detail
