#include "service_thread.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include <iterator>
#include <stdexcept>
#include <utility>

#include <sidestep/exit_hooks.hpp>
#include <sidestep/task_state.hpp>

#include "per_process.hpp"

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

void ServiceThread::start(const char* name, Runs runs, std::function<void()> body) {
    BlockedSignals blocked;
    thread_ = std::thread([name, body = std::move(body)] {
        prctl(PR_SET_NAME, name);
        body();
    });
    runs_ = runs;
    if (runs_ == Runs::library_code) ++running_threads;
}

void ServiceThread::join() {
    thread_.join();
    if (runs_ == Runs::library_code) --running_threads;
}

void ServiceThread::abandon() {
    if (thread_.joinable()) thread_.detach();
}

void CallbackThread::start() {
    std::lock_guard lock(mutex_);
    if (thread_.joinable()) return;
    stopping_ = false;
    thread_.start("sidestep-call", ServiceThread::Runs::users_code, [this] { run(); });
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

namespace {
thread_local const BackgroundThreads* background_here = nullptr;
}

void BackgroundThreads::start(const char* name, std::function<void()> work) {
    std::list<Background> ended;
    {
        std::lock_guard lock(mutex_);
        if (joined_) throw std::logic_error("the pool has ended: it takes no tasks any more");
        for (auto at = threads_.begin(); at != threads_.end();) {
            auto next = std::next(at);
            if (at->ended) ended.splice(ended.end(), threads_, at);
            at = next;
        }
        Background& background = threads_.emplace_back();
        auto body = [this, &background, work = std::move(work)]() mutable {
            background_here = this;
            work();
            work = nullptr;  // what it captured goes now, not in join()
            background.ended = true;
        };
        try {
            background.thread.start(name, ServiceThread::Runs::users_code, std::move(body));
        } catch (...) {
            threads_.pop_back();
            throw;
        }
    }
    for (Background& b : ended) b.thread.join();
}

void BackgroundThreads::join() {
    std::lock_guard only_one(joining_);
    std::list<Background> threads;
    {
        std::lock_guard lock(mutex_);
        joined_ = true;
        threads.swap(threads_);
    }
    for (Background& b : threads) b.thread.join();
}

bool BackgroundThreads::is_this_thread() const { return background_here == this; }

namespace {
struct Farewells {
    BackgroundThreads threads;
    std::once_flag once;
};
PerProcess<Farewells> farewells;
}  // namespace

bool join_elsewhere(std::function<void()> join) {
    Farewells& mine = farewells.get();
    std::call_once(mine.once, [&] { at_exit([&mine] { mine.threads.join(); }); });
    try {
        mine.threads.start("sidestep-end", std::move(join));
        return true;
    } catch (const std::logic_error&) {  // joined already
        return false;
    }
}

void BackgroundThreads::abandon() {
    for (Background& b : threads_) b.thread.abandon();
}

}  // namespace sidestep::detail
