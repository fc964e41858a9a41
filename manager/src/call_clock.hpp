// When calls of a server are overdue: a thread that calls functions at their times.
//
// Threads: thread-safe; the functions are called in its thread, one after the other. The thread is
//          there from the first add() to stop().
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace sidestep::inline v0::detail {

class CallClock {
  public:
    using Time = std::chrono::steady_clock::time_point;
    using Key = std::pair<Time, std::uint64_t>;  // the default: of nothing

    CallClock() = default;
    ~CallClock() { stop(); }
    CallClock(const CallClock&) = delete;
    CallClock& operator=(const CallClock&) = delete;

    // `due` throws nothing. Throws std::system_error if the system gives no thread. After stop()
    // nothing is called.
    Key add(Time time, std::function<void()> due);
    // It is not called any more, unless that has begun.
    void remove(const Key& key);
    // Returns when nothing is called any more. Idempotent.
    void stop() noexcept;

  private:
    void run();

    std::mutex mutex_;
    std::condition_variable changed_;
    // Guarded by mutex_.
    std::map<Key, std::function<void()>> due_;
    std::uint64_t last_ = 0;
    bool stopped_ = false;
    std::thread thread_;
};

}  // namespace sidestep::detail
