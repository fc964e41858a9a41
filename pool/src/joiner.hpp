// A wait with an end for a join() that has none.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>

#include "service_thread.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

// Another thread joins; who waits here may give up, and come back.
// Threads: thread-safe.
class Joiner {
  public:
    // False: the deadline came first, and the thread goes on. What join() throws is thrown here,
    // and by each later call. Throws std::system_error if the system gives no thread.
    bool wait(std::function<void()> join, const sys::Deadline& deadline);
    // Somebody has joined: the thread has nothing more to wait for, nor has anybody else.
    void stop();
    void abandon() { thread_.abandon(); }  // in a forked child

  private:
    void run(const std::function<void()>& join) noexcept;

    std::mutex mutex_;
    // Guarded by mutex_.
    std::condition_variable ended_;
    bool has_ended_ = false;
    std::exception_ptr error_;
    ServiceThread thread_;
};

}  // namespace sidestep::detail
