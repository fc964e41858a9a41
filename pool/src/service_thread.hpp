// Threads that the library has of its own.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace sidestep::detail {

// A thread that takes no signals (they are the application's), and is known to
// require_single_thread(): a fork beside it is safe.
class ServiceThread {
  public:
    // How many there are in this process.
    static std::size_t count();

    ServiceThread() = default;
    ServiceThread(const ServiceThread&) = delete;
    ServiceThread& operator=(const ServiceThread&) = delete;
    // Requires: it does not run. The name has 15 characters at most.
    void start(const char* name, std::function<void()> body);
    bool joinable() const { return thread_.joinable(); }
    bool is_this_thread() const { return thread_.get_id() == std::this_thread::get_id(); }
    void join();
    void swap(ServiceThread& other) { thread_.swap(other.thread_); }
    void abandon();  // in a forked child, where it does not exist

  private:
    std::thread thread_;
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

}  // namespace sidestep::detail
