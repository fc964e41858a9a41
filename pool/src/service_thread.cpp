#include "service_thread.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include <utility>

#include <sidestep/task_state.hpp>

namespace sidestep::detail {
namespace {

std::atomic<std::size_t> running_threads{0};
thread_local const CallbackThread* callbacks_here = nullptr;  // whose this thread runs

// All signals blocked, until the end of the scope: a new thread inherits that.
class BlockedSignals {
  public:
    BlockedSignals() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_);
    }
    ~BlockedSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
    BlockedSignals(const BlockedSignals&) = delete;
    BlockedSignals& operator=(const BlockedSignals&) = delete;

  private:
    sigset_t before_;
};

}  // namespace

std::size_t ServiceThread::count() { return running_threads.load(); }

void ServiceThread::start(const char* name, std::function<void()> body) {
    BlockedSignals blocked;
    ++running_threads;
    try {
        thread_ = std::thread([name, body = std::move(body)] {
            prctl(PR_SET_NAME, name);
            body();
        });
    } catch (...) {
        --running_threads;
        throw;
    }
}

void ServiceThread::join() {
    thread_.join();
    --running_threads;
}

void ServiceThread::abandon() {
    if (thread_.joinable()) thread_.detach();
}

void CallbackThread::start() {
    std::lock_guard lock(mutex_);
    if (thread_.joinable()) return;
    stopping_ = false;
    thread_.start("sidestep-call", [this] { run(); });
}

void CallbackThread::post(std::vector<std::function<void()>> callbacks) {
    std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(callbacks));
    posted_.notify_one();
}

bool CallbackThread::is_this_thread() const { return callbacks_here == this; }

void CallbackThread::run() {
    callbacks_here = this;
    std::unique_lock lock(mutex_);
    for (;;) {
        posted_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
        if (waiting_.empty()) return;
        std::vector<std::function<void()>> callbacks = std::move(waiting_.front());
        waiting_.pop_front();
        lock.unlock();
        run_callbacks(std::move(callbacks));
        lock.lock();
    }
}

void CallbackThread::stop() {
    ServiceThread finished;
    {
        std::lock_guard lock(mutex_);
        if (!thread_.joinable()) return;
        stopping_ = true;
        posted_.notify_one();
        finished.swap(thread_);
    }
    finished.join();
}

}  // namespace sidestep::detail
