#include "server_threads.hpp"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <utility>

#include "sys/make_thread.hpp"

namespace sidestep::inline v0::detail {
namespace {
constexpr std::chrono::seconds kIdle{10};
}

ServerThreads::~ServerThreads() { shutdown(); }

void ServerThreads::run(std::function<void()> work) {
    std::lock_guard lock(mutex_);
    if (closed_) throw std::logic_error("the server has ended");
    auto idle = std::find_if(workers_.begin(), workers_.end(),
                             [](const Worker& worker) { return worker.idle; });
    if (idle != workers_.end()) {
        idle->work = std::move(work);
        idle->idle = false;
        return idle->called.notify_one();
    }
    join_ended();
    Worker& fresh = workers_.emplace_back();
    fresh.work = std::move(work);
    try {
        fresh.thread = make_service_thread([this, &fresh] { serve(fresh); });
    } catch (...) {
        workers_.pop_back();
        throw;
    }
}

void ServerThreads::serve(Worker& worker) {
    std::unique_lock lock(mutex_);
    while (!worker.idle) {
        lock.unlock();
        try {
            std::exchange(worker.work, nullptr)();
        } catch (...) {  // pthread_exit() in a call: this thread goes
            lock.lock();
            worker.ended = true;
            throw;
        }
        lock.lock();
        if (closed_) break;
        worker.idle = true;
        worker.called.wait_for(lock, kIdle, [&] { return !worker.idle || closed_; });
    }
    worker.idle = false;
    worker.ended = true;
}

void ServerThreads::enter() {
    std::lock_guard lock(mutex_);
    if (closed_) throw std::logic_error("the server has ended");
    ++guests_;
}
void ServerThreads::leave() noexcept {
    std::lock_guard lock(mutex_);
    if (--guests_ == 0 && closed_) guest_left_.notify_all();
}

// With the mutex held: they are at their last line.
void ServerThreads::join_ended() noexcept {
    workers_.remove_if([](Worker& worker) {
        if (worker.ended) worker.thread.join();
        return worker.ended;
    });
}

void ServerThreads::shutdown() noexcept {
    std::list<Worker> all;
    {
        std::unique_lock lock(mutex_);
        closed_ = true;
        for (Worker& worker : workers_) worker.called.notify_one();
        all.swap(workers_);  // their places stay
        guest_left_.wait(lock, [this] { return guests_ == 0; });
    }
    for (Worker& worker : all) worker.thread.join();
}

}  // namespace sidestep::detail
