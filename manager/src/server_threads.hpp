// The threads of a server: as many as there is work at the same time.
//
// A ThreadPool has a limit, and keeps what waits until a thread is free: here work that waited for
// that would hold up for ever what those threads wait for. So work is taken if a thread has it at
// once, and else refused.
//
// Threads: thread-safe. A thread that had nothing to do for a while ends.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <list>
#include <mutex>
#include <thread>

namespace sidestep::inline v0::detail {

class ServerThreads {
  public:
    ServerThreads() = default;
    // shutdown().
    ~ServerThreads();
    ServerThreads(const ServerThreads&) = delete;
    ServerThreads& operator=(const ServerThreads&) = delete;

    // Throws std::system_error if the system gives no thread, and std::logic_error after
    // shutdown(); nothing was taken then.
    void run(std::function<void()> work);
    // From here to leave(), a thread of somebody else's does such work, too. Throws
    // std::logic_error after shutdown().
    void enter();
    void leave() noexcept;
    // Returns when all that was taken is done. Idempotent.
    void shutdown() noexcept;

  private:
    struct Worker {
        std::thread thread;
        std::condition_variable called;
        std::function<void()> work;
        bool idle = false, ended = false;
    };
    void serve(Worker& worker);
    void join_ended() noexcept;

    std::mutex mutex_;
    // Guarded by mutex_.
    std::list<Worker> workers_;
    std::size_t guests_ = 0;  // that have entered
    std::condition_variable guest_left_;
    bool closed_ = false;
};

}  // namespace sidestep::detail
