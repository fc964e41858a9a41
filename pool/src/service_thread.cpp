#include "service_thread.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include <cstdio>
#include <exception>
#include <iterator>
#include <stdexcept>
#include <utility>

#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/task_state.hpp>
#include <sidestep/exit_hooks.hpp>

#include "sys/make_thread.hpp"
#include "sys/per_process.hpp"

namespace sidestep::inline v0::detail {
namespace {

std::atomic<std::size_t> running_threads{0};
thread_local const CallbackThread* callbacks_here = nullptr;  // whose this thread runs

}  // namespace

std::size_t ServiceThread::count() { return running_threads.load(); }

void ServiceThread::start(const char* name, Runs runs, std::function<void()> body) {
    thread_ = make_service_thread([name, body = std::move(body)] {
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

void ServiceThread::leave() {
    thread_.detach();
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

void CallbackThread::post(Callbacks callbacks) noexcept {
    std::lock_guard lock(mutex_);
    waiting_.splice(waiting_.end(), callbacks);
    posted_.notify_one();
}

bool CallbackThread::is_this_thread() const { return callbacks_here == this; }

void CallbackThread::run() {
    callbacks_here = this;
    std::unique_lock lock(mutex_);
    for (;;) {
        posted_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
        if (waiting_.empty()) return;
        Callbacks callbacks;
        callbacks.splice(callbacks.end(), waiting_, waiting_.begin());
        running_ = true;
        lock.unlock();
        run_callbacks(std::move(callbacks));
        lock.lock();
        running_ = false;
        if (waiting_.empty()) idle_.notify_all();
    }
}

void CallbackThread::settle() {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return !running_ && waiting_.empty(); });
}

void CallbackThread::stop() {
    std::lock_guard only_one(stopping_one_);
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
            try {
                work();
            } catch (...) {  // of memory, at the worst: a map's errors are in its future
                background.ended = !std::current_exception();
                pass_on_forced_unwind();
                std::fprintf(stderr, "sidestep: a thread that fed a map ended early\n");
            }
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
thread_local InPool* innermost = nullptr;
}

InPool::InPool(const EndingPool& pool) : pool_(&pool), outer_(innermost) { innermost = this; }

InPool::~InPool() { innermost = outer_; }

bool InPool::is_here(const EndingPool& pool) {
    for (const InPool* scope = innermost; scope; scope = scope->outer_)
        if (scope->pool_ == &pool) return true;
    return false;
}

namespace {

struct Farewell {
    std::weak_ptr<EndingPool> pool;
    ServiceThread thread;
    std::atomic<bool> ended{false};
};

// The pools of this process that end in the background. Threads: thread-safe.
class Farewells {
  public:
    // False: the process is ending.
    bool start(const std::shared_ptr<EndingPool>& pool);
    void wait();

  private:
    std::mutex mutex_;
    // Guarded by mutex_.
    std::list<Farewell> list_;
    bool armed_ = false;
    bool process_ends_ = false;  // from then on the list is constant
};
PerProcess<Farewells> farewells;

bool Farewells::start(const std::shared_ptr<EndingPool>& pool) {
    std::lock_guard lock(mutex_);
    if (process_ends_) return false;
    if (!armed_) at_exit([this] { wait(); });
    armed_ = true;
    for (auto at = list_.begin(); at != list_.end();) {
        if (at->ended) at->thread.join();
        at = at->ended ? list_.erase(at) : std::next(at);
    }
    Farewell& farewell = list_.emplace_back();
    farewell.pool = pool;
    try {
        auto body = [&farewell, mine = pool]() mutable {
            try {
                mine->join();
            } catch (const std::exception& error) {
                std::fprintf(stderr, "sidestep: a pool's end: %s\n", error.what());
            }
            mine = nullptr;  // it goes now, not at the end of the process
            farewell.ended = true;
        };
        farewell.thread.start("sidestep-end", ServiceThread::Runs::users_code, std::move(body));
    } catch (...) {
        list_.pop_back();
        throw;
    }
    return true;
}

void Farewells::wait() {
    {
        std::lock_guard lock(mutex_);
        process_ends_ = true;
    }
    for (Farewell& farewell : list_) {
        std::shared_ptr<EndingPool> pool = farewell.pool.lock();
        if (pool && pool->in_own_thread()) {
            pool->end_with_process();
            farewell.thread.abandon();
        } else {
            farewell.thread.join();
        }
    }
}

}  // namespace

bool join_elsewhere(const std::shared_ptr<EndingPool>& pool) noexcept {
    try {
        return farewells.get().start(pool);
    } catch (const std::exception&) {  // no thread, or no memory
        return false;
    }
}

void BackgroundThreads::abandon() {
    for (Background& b : threads_) b.thread.abandon();
}

}  // namespace sidestep::detail
