// What the supervisor sleeps in: descriptors, and what is done when one of them has something.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "sync/supervisor_role.hpp"
#include "sys/parent_fd.hpp"

namespace sidestep::inline v0::detail {

// epoll(7). Threads: the supervisor's.
class EventLoop {
  public:
    using Callback = std::function<void()>;
    enum class Tells : unsigned char { while_there_is_something, of_each_event };

    // Before anything else. Throws std::system_error.
    void open() SUPERVISOR_ONLY;
    // Throws std::system_error, std::bad_alloc; then nothing was added.
    void add(int fd, Callback callback,
             Tells tells = Tells::while_there_is_something) SUPERVISOR_ONLY;
    // Before it is closed: closing is not enough while a forked process has the descriptor too.
    void remove(int fd) noexcept SUPERVISOR_ONLY;
    // Waits for events, so many milliseconds at most (-1: for ever), and has their callbacks run,
    // by run(callback). 0, or the error of epoll_wait(2).
    template <class Run>
    int wait(int timeout_ms, Run run) SUPERVISOR_ONLY {
        int ready[kMost];
        int n = wait_for_events(timeout_ms, ready);
        for (int i = 0; i < n; ++i) {
            auto found = callbacks_.find(ready[i]);
            if (found == callbacks_.end()) continue;  // removed by the callback of another one
            std::shared_ptr<const Callback> callback = found->second;  // it may remove itself
            run(*callback);
        }
        return n < 0 ? -n : 0;
    }

  private:
    static constexpr int kMost = 64;
    int wait_for_events(int timeout_ms, int (&ready)[kMost]) SUPERVISOR_ONLY;

    ParentFd epoll_ SUPERVISOR_OWNED;
    std::map<int, std::shared_ptr<const Callback>> callbacks_ SUPERVISOR_OWNED;  // by descriptor
};

}  // namespace sidestep::detail
