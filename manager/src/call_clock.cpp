#include "call_clock.hpp"

#include "sys/make_thread.hpp"

namespace sidestep::inline v0::detail {

CallClock::Key CallClock::add(Time time, std::function<void()> due) {
    std::lock_guard lock(mutex_);
    const Key key{time, ++last_};
    if (stopped_) return key;
    if (!thread_.joinable()) thread_ = make_service_thread([this] { run(); });
    const bool first = due_.empty() || key < due_.begin()->first;
    due_.emplace(key, std::move(due));
    if (first) changed_.notify_one();
    return key;
}

void CallClock::remove(const Key& key) {
    std::function<void()> dropped;  // destroyed without the mutex
    std::lock_guard lock(mutex_);
    auto found = due_.find(key);
    if (found == due_.end()) return;
    dropped.swap(found->second);
    due_.erase(found);
}

void CallClock::run() {
    std::unique_lock lock(mutex_);
    while (!stopped_) {
        if (due_.empty()) {
            changed_.wait(lock);
            continue;
        }
        const Time first = due_.begin()->first.first;
        if (std::chrono::steady_clock::now() < first) {
            changed_.wait_until(lock, first);
            continue;
        }
        std::function<void()> due = std::move(due_.begin()->second);
        due_.erase(due_.begin());
        lock.unlock();
        due();
        due = nullptr;
        lock.lock();
    }
}

void CallClock::stop() noexcept {
    std::thread thread;
    {
        std::lock_guard lock(mutex_);
        stopped_ = true;
        changed_.notify_one();
        thread.swap(thread_);
    }
    if (thread.joinable()) thread.join();
}

}  // namespace sidestep::detail
