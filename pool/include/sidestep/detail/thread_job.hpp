// What a thread of a ThreadPool runs: a task, its callable and its arguments, in one piece of
// memory. Internal.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <tuple>
#include <type_traits>
#include <utility>

#include <sidestep/detail/local_task.hpp>
#include <sidestep/detail/travel.hpp>
#include <sidestep/future.hpp>
#include <sidestep/task_options.hpp>

namespace sidestep::inline v0::detail {

class ThreadPoolCore;
struct JobExtra;  // what few jobs have: options of their own, timeouts, tokens

class ThreadJob : public LocalTaskBase {
  public:
    // Runs it and stores the result, or throws. last: it will not be called again.
    virtual void run(bool last) = 0;
    // False: an argument cannot be copied, and is moved to the first call.
    virtual bool runs_again() const = 0;
    // Of one that waits for others: this becomes its result when it is run.
    virtual void refuse(const std::exception_ptr&, bool cancelled) noexcept { (void)cancelled; }
    // For messages: the function, if the callable is a pointer to one.
    virtual const void* function() const = 0;
    // The callable and the arguments go. Called once, when it is not run any more.
    virtual void drop_call() noexcept = 0;
    std::shared_ptr<ThreadPoolCore> thread_pool() const override;

    static void* operator new(std::size_t size);
    static void* operator new(std::size_t size, std::align_val_t alignment) {
        return ::operator new(size, alignment);
    }
    static void operator delete(void* memory, std::size_t size) noexcept;
    static void operator delete(void* memory, std::size_t, std::align_val_t alignment) noexcept {
        ::operator delete(memory, alignment);
    }

    // The pool's; a thread's while it runs the job.
    ThreadJob* next = nullptr;  // in a JobList
    std::uint64_t number = 0;
    std::chrono::steady_clock::time_point submitted_at{};  // the epoch: nobody looked
    std::unique_ptr<JobExtra> extra;                       // null: it has none
    std::uint32_t attempt = 0;
    std::uint32_t pool = 0;  // its number; constant since it was submitted

  protected:
    ThreadJob();
    ~ThreadJob() override;
};

// A job as its pool has it: one owner, who runs it, or not; futures have references to the task.
struct EndJob {
    void operator()(ThreadJob* job) const noexcept;
};
using ThreadJobPtr = std::unique_ptr<ThreadJob, EndJob>;

inline TaskRef task_of(ThreadJob& job) {
    job.add_reference();
    return TaskRef(&job);
}

// Throws std::logic_error if the pool is closed (begun: a stream's, which was made before it was;
// so if it is joined), or terminated (begun: CancelledError), BrokenPool if it is broken;
// std::invalid_argument for retries of what cannot be run again.
void submit_job(ThreadPoolCore& core, ThreadJobPtr job, const TaskOptions* options,
                bool begun = false);
// Throws what submit_job() would.
void check_open(ThreadPoolCore& core);
// As that of a PoolCore.
std::shared_ptr<void> take_place(const std::shared_ptr<ThreadPoolCore>& core);
// While the result lives, join() waits: somebody has called a map.
std::shared_ptr<void> hold_open(const std::shared_ptr<ThreadPoolCore>& core);
// Throws std::invalid_argument if there is more than one attempt.
void refuse_retries(const Retry& retry);
// After so many attempts that failed: pauses and says true, if the task is to be run again. The
// timeout begins anew.
bool retry_here(const Retry& retry, unsigned attempts, const std::exception_ptr& error);
const TaskOptions& default_options(const ThreadPoolCore& core);

template <class Result, class F, class... Args>
class CallJob final : public LocalTask<Result, ThreadJob> {
  public:
    template <class G, class... Values>
    static ThreadJobPtr make(G&& f, Values&&... values) {
        return ThreadJobPtr(new CallJob(std::forward<G>(f), std::forward<Values>(values)...));
    }
    bool runs_again() const override { return kRunsAgain; }
    const void* function() const override { return function_address(call_.f); }
    void drop_call() noexcept override { call_.~Call(); }
    void run(bool last) override {
        if constexpr (kRunsAgain) {
            if (!last) {
                std::tuple<Args...> copy(call_.arguments);
                return call(copy);
            }
        }
        call(call_.arguments);
    }

  private:
    static constexpr bool kRunsAgain = (kCopies<Args> && ...);
    struct Call {
        F f;
        std::tuple<Args...> arguments;
    };

    template <class G, class... Values>
    explicit CallJob(G&& f, Values&&... values)
        : call_{std::forward<G>(f), std::tuple<Args...>(std::forward<Values>(values)...)} {}
    ~CallJob() override {}

    void call(std::tuple<Args...>& arguments) {
        if constexpr (std::is_void_v<Result>) {
            std::apply([this](Args&... a) { std::invoke(call_.f, std::move(a)...); }, arguments);
            this->try_set({});
        } else {
            this->try_set(std::apply(
                [this](Args&... a) -> Result { return std::invoke(call_.f, std::move(a)...); },
                arguments));
        }
    }

    union {  // it goes before the task does
        Call call_;
    };
};

}  // namespace sidestep::detail
