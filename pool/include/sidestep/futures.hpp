// Waiting for several futures: wait() and as_completed().
//
//     for (Future<int>& f : as_completed(batch)) use(f.get());
//     auto [done, pending] = wait(batch, ReturnWhen::first_completed, 5s);
//
// The futures may be of different pools, thread pools and promises. A future that is given twice is
// one. Tasks go on, whether they are waited for or not.
// Threads: the functions are thread-safe; an AsCompleted belongs to one thread.
// Errors:  std::logic_error for an empty future. What a task threw comes out of its get() alone.
#pragma once

#include <cstddef>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <unordered_set>
#include <vector>

#include <sidestep/detail/completion_queue.hpp>
#include <sidestep/future.hpp>

namespace sidestep::inline v0 {

enum class ReturnWhen {
    first_completed,  // when any is done
    first_exception,  // when any has failed (to be cancelled is no failure), or all are done
    all_completed,
};

namespace detail {

// Tells which of some tasks is done next.
class TaskWaiter {
  public:
    // Each task once, whatever is said twice.
    void add(const TaskRef& task);
    ~TaskWaiter();
    TaskWaiter() = default;
    TaskWaiter(TaskWaiter&&) = default;
    TaskWaiter& operator=(TaskWaiter&&) = delete;

    // The index of a task that was not told yet; nothing at the deadline, or when all were.
    std::optional<std::size_t> next(const Deadline& deadline);
    std::size_t left() const { return left_; }
    std::size_t size() const { return known_.size(); }

  private:
    bool wait(const Deadline& deadline);

    std::shared_ptr<CompletionQueue> queue_ = std::make_shared<CompletionQueue>();
    std::vector<TaskRef> tasks_;  // by index; null once told, or for one that was there before
    std::unordered_set<const TaskState*> known_;
    std::size_t left_ = 0;
};

// Which of the tasks are done when wait() may return.
std::vector<bool> wait_for_tasks(const std::vector<TaskRef>& tasks, ReturnWhen when,
                                 const Deadline& deadline);
[[noreturn]] void throw_unfinished(std::size_t left, std::size_t all);

template <class Range>
concept FutureRange = std::ranges::input_range<Range> &&
    requires(std::ranges::range_value_t<Range> f) {
    typename std::ranges::range_value_t<Range>::value_type;
    { f.state() } -> std::convertible_to<TaskRef>;
};

}  // namespace detail

template <class F>
struct WaitResult {
    std::vector<F> done, pending;
};

// Waits until `when`, or the timeout is over; which futures are done then, and which not.
template <detail::FutureRange Range>
auto wait(const Range& futures, ReturnWhen when = ReturnWhen::all_completed,
          Timeout timeout = Timeout::forever()) {
    using F = std::ranges::range_value_t<Range>;
    std::vector<detail::TaskRef> tasks;
    for (const F& f : futures) tasks.push_back(f.state());
    std::vector<bool> is_done = wait_for_tasks(tasks, when, detail::deadline_after(timeout));
    WaitResult<F> result;
    std::unordered_set<const detail::TaskState*> seen;
    std::size_t i = 0;
    for (const F& f : futures) {
        bool done = is_done[i++];
        if (seen.insert(f.state().get()).second) (done ? result.done : result.pending).push_back(f);
    }
    return result;
}

// The futures in the order in which they are completed: a range that is passed through once.
template <class F>
class AsCompleted {
  public:
    AsCompleted(std::vector<F> futures, detail::Deadline deadline)
        : futures_(std::move(futures)), deadline_(deadline) {
        for (const F& f : futures_) waiter_.add(f.state());
    }

    class Iterator {
      public:
        using value_type = F;
        using difference_type = std::ptrdiff_t;
        explicit Iterator(AsCompleted* outer) : outer_(outer) { outer_->advance(); }
        F& operator*() const { return outer_->futures_[*outer_->current_]; }
        Iterator& operator++() {
            outer_->advance();
            return *this;
        }
        void operator++(int) { outer_->advance(); }
        bool operator==(std::default_sentinel_t) const { return !outer_->current_; }

      private:
        AsCompleted* outer_;
    };
    Iterator begin() { return Iterator(this); }
    std::default_sentinel_t end() const { return {}; }

  private:
    void advance() {
        if (current_) futures_[*current_] = {};  // it is kept no longer than it is looked at
        current_ = waiter_.next(deadline_);
        if (!current_ && waiter_.left() > 0)
            detail::throw_unfinished(waiter_.left(), waiter_.size());
    }

    std::vector<F> futures_;
    detail::Deadline deadline_;
    detail::TaskWaiter waiter_;
    std::optional<std::size_t> current_;
};

// Throws TimeoutError, while it is advanced, when the timeout (counted from this call) is over.
template <detail::FutureRange Range>
auto as_completed(const Range& futures, Timeout timeout = Timeout::forever()) {
    using F = std::ranges::range_value_t<Range>;
    return AsCompleted<F>(std::vector<F>(std::ranges::begin(futures), std::ranges::end(futures)),
                          detail::deadline_after(timeout));
}

}  // namespace sidestep
