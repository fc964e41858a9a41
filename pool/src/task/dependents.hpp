// Tasks that wait for others, of this pool or of another one, and whoever tells them.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <sidestep/detail/completion_queue.hpp>
#include <sidestep/detail/task_state.hpp>

#include "service_thread.hpp"

namespace sidestep::inline v0::detail {

// What a task waits for says so to one queue, under its own pool's lock and without memory; a
// thread goes through the queue, and lets tasks begin. So nobody who completes a task pays for
// those that wait for it, a chain of them is no recursion, and users' code that is slow (a
// callback, a `serialize`) holds up no lock. The thread is there from the first task on that has
// to wait.
//
// Threads: thread-safe. Its mutex is taken last.
class Dependents {
  public:
    // Exactly one of begin() and fail() is called, once, with no lock; by the pool's thread, or in
    // add().
    class Waiting {
      public:
        explicit Waiting(std::vector<TaskRef> needs) : Waiting(needs, needs.size()) {}
        // Those behind the first `count` end it when they fail, and are not waited for.
        Waiting(std::vector<TaskRef> needs, std::size_t count)
            : needs_(std::move(needs)), left_(count) {}
        virtual ~Waiting() = default;
        Waiting(const Waiting&) = delete;
        Waiting& operator=(const Waiting&) = delete;
        const std::vector<TaskRef>& needs() const { return needs_; }
        // All that count are done, and have a value.
        virtual void begin() noexcept = 0;
        // One has none, for this reason; it was cancelled.
        virtual void fail(const std::exception_ptr& error, bool cancelled) noexcept = 0;

      private:
        friend class Dependents;
        const std::vector<TaskRef> needs_;
        // Guarded by the mutex of Dependents.
        std::size_t first_tag_ = 0;
        std::size_t left_;  // that count, and are not known to be done
    };

    // What begins the task, or fails it, is called in this thread if that can be said now.
    void add(const std::shared_ptr<Waiting>& task) noexcept;
    // The task is not waited for any more, unless it is told at this moment.
    void remove(const Waiting& task) noexcept;
    // Returns when all have been told of what was done before this call.
    void settle() noexcept;
    // Ends the thread.
    void stop() noexcept;
    void abandon() { thread_.abandon(); }  // in a forked child
    // The caller is the thread.
    bool is_this_thread() const;

  private:
    static constexpr std::size_t kStop = ~std::size_t(0);
    static constexpr std::size_t kSettle = kStop - 1;

    void start();
    void listen(const std::shared_ptr<Waiting>& task, bool& is_listed);
    void run();
    void expect_another() noexcept;
    void tell(std::size_t tag) noexcept;
    std::shared_ptr<Waiting> take(const Waiting& task) noexcept;

    const std::shared_ptr<CompletionQueue> queue_ = std::make_shared<CompletionQueue>();
    std::mutex settling_one_;  // before mutex_: the turn of whoever is in settle() or stop()
    std::mutex mutex_;
    // Guarded by mutex_.
    std::condition_variable settled_;
    bool is_settled_ = false;
    std::map<std::size_t, std::shared_ptr<Waiting>> waiting_;  // by their first tag
    std::size_t next_tag_ = 0;                                 // each need has one
    ServiceThread thread_;
};

}  // namespace sidestep::detail
