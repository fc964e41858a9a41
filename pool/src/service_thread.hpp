// Threads that the library has of its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace sidestep::detail {

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
    // Requires: it was started.
    void post(std::vector<std::function<void()>> callbacks);
    // Runs what was posted, then ends the thread; it may be started again.
    void stop();
    void abandon() { thread_.abandon(); }
    // The caller is a callback.
    bool is_this_thread() const;

  private:
    void run();

    std::mutex mutex_;
    // Guarded by mutex_.
    std::condition_variable posted_;
    std::deque<std::vector<std::function<void()>>> waiting_;
    bool stopping_ = false;
    ServiceThread thread_;
};

// Threads that each do one thing and end.
// Threads: thread-safe.
class BackgroundThreads {
  public:
    // Throws std::logic_error after join().
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

// Ends a pool that goes in a thread of its own, which cannot wait for itself: `join` runs in
// another thread, and the end of this process waits for that. False: the process is ending already,
// and no thread will.
[[nodiscard]] bool join_elsewhere(std::function<void()> join);

}  // namespace sidestep::detail
