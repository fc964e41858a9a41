// Threads that the library has of its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include <sidestep/detail/task_state.hpp>

namespace sidestep::inline v0::detail {

// A thread that takes no signals: they are the application's.
class ServiceThread {
  public:
    // Whose code it runs: a fork beside the library's own is safe, that of users may hold any lock.
    enum class Runs { library_code, users_code };
    // How many there are in this process that run the library's code only.
    static std::size_t count();

    ServiceThread() = default;
    ServiceThread(const ServiceThread&) = delete;
    ServiceThread& operator=(const ServiceThread&) = delete;
    // Requires: it does not run. The name has 15 characters at most.
    void start(const char* name, Runs runs, std::function<void()> body);
    bool joinable() const { return thread_.joinable(); }
    bool is_this_thread() const { return thread_.get_id() == std::this_thread::get_id(); }
    void join();
    void swap(ServiceThread& other) {
        thread_.swap(other.thread_);
        std::swap(runs_, other.runs_);
    }
    void leave();    // in the thread itself: it ends, and nobody joins it
    void abandon();  // in a forked child, where it does not exist

  private:
    std::thread thread_;
    Runs runs_ = Runs::library_code;
};

// Where the callbacks of a pool's futures run, one after the other.
// Threads: thread-safe.
class CallbackThread {
  public:
    // Starts the thread unless it runs.
    void start();
    // Requires: it was started. (What is to be run was allocated before: this takes no memory.)
    void post(Callbacks callbacks) noexcept;
    // Returns when what was posted before has run.
    void settle();
    // Runs what was posted, then ends the thread; it may be started again. Who comes second waits
    // for who came first: when this returns, the last callback has.
    void stop();
    void abandon() { thread_.abandon(); }
    // The caller is a callback.
    bool is_this_thread() const;

  private:
    void run();

    std::mutex stopping_one_;  // before mutex_: the turn of whoever is in stop()
    std::mutex mutex_;
    // Guarded by mutex_.
    std::condition_variable posted_;
    Callbacks waiting_;
    std::condition_variable idle_;
    bool running_ = false;  // a callback
    bool stopping_ = false;
    ServiceThread thread_;
};

// Threads that each do one thing and end.
// Threads: thread-safe.
class BackgroundThreads {
  public:
    // Throws std::logic_error after join(), std::system_error if the system gives no thread.
    void start(const char* name, std::function<void()> work);
    // Waits for all of them. Who comes second waits for who came first.
    void join();
    // The caller is one of them.
    bool is_this_thread() const;
    void abandon();

  private:
    struct Background {
        ServiceThread thread;
        std::atomic<bool> ended{false};  // or all but: it can be joined at once
    };

    std::mutex joining_;  // before mutex_
    std::mutex mutex_;
    // Guarded by mutex_.
    std::list<Background> threads_;
    bool joined_ = false;
};

// A pool that may go in a thread of its own, which cannot wait for itself.
class EndingPool {
  public:
    virtual void join() = 0;
    // The caller is one of the pool's own threads, or in a call for which join() waits (InPool): it
    // cannot join().
    virtual bool in_own_thread() = 0;
    // Such a thread runs exit(3), and nobody can join() any more: ends what can be ended without
    // that thread. Returns soon.
    virtual void end_with_process() noexcept = 0;

  protected:
    ~EndingPool() = default;
};

// While it lives, this thread is in a call for which the pool's join() waits: it collects a map, or
// runs a task itself. Made and destroyed in one thread, the last one first.
class InPool {
  public:
    explicit InPool(const EndingPool& pool);
    ~InPool();
    InPool(const InPool&) = delete;
    InPool& operator=(const InPool&) = delete;
    static bool is_here(const EndingPool& pool);

  private:
    const EndingPool* const pool_;
    InPool* const outer_;
};

// Joins a pool in another thread; the end of this process waits for that (see end_with_process()
// for when it does not). False: the process is ending already, or gives no thread.
[[nodiscard]] bool join_elsewhere(const std::shared_ptr<EndingPool>& pool) noexcept;

}  // namespace sidestep::detail
