// Future<T>: the result of a task, when it is there.
//
// Ownership: a small handle; copies refer to the same task. It may outlive its pool. A large result
//            stays in shared memory until the last handle goes; get() makes a fresh copy each time.
// Threads:   thread-safe.
// Fork:      in a forked child a result can be had that was there before the fork. Of all others
//            get() and exception() throw std::logic_error; ready(), running(), wait_for() and
//            cancel() are false, at once.
// Peer death: the worker's death while it ran the task is the result WorkerLost; nothing waits for
//            ever.
// Errors:    get() throws what the task threw, by type (remote_error.hpp), or WorkerLost,
//            TaskTimeout, OutOfMemory, BrokenPool, CancelledError, and HostLost in a pool over
//            several hosts (pool_errors.hpp). A result that cannot be read back throws what its
//            `serialize` threw, in get(), and affects nothing else. One that cannot be copied and
//            did not travel (of a ThreadPool, a Promise, map_async) can be had once: get() moves it
//            out.
//
// | state \ call     | ready | running | wait_for      | get            | cancel                |
// |------------------|-------|---------|---------------|----------------|-----------------------|
// | waiting          | false | false   | waits         | waits          | true: never runs      |
// | running          | false | true    | waits         | waits          | true: is stopped      |
// | finished         | true  | false   | true at once  | value or error | false                 |
// | cancelled        | true  | false   | true at once  | CancelledError | true                  |
// | empty (default)  | std::logic_error from every call but valid()                              |
//
// (A task that runs in a thread of this process, or belongs to a Promise, cannot be stopped: cancel
// is false then.)
#pragma once

#include <array>
#include <coroutine>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include <sidestep/detail/task_state.hpp>
#include <sidestep/detail/travel.hpp>
#include <sidestep/pool_errors.hpp>

namespace sidestep::inline v0 {

namespace detail {
[[noreturn]] void throw_empty_future();
[[noreturn]] void throw_get_timeout(Timeout timeout);
std::string describe_task(TaskState& task);
// Throws std::logic_error if it is not captured.
const TaskOutput& output_of(const TaskState& task);

// Whether a value can be copied. (A standard container says so of itself whatever is in it. A type
// of one's own that has such a container as a member says so too: delete its copy constructor.)
template <class T>
inline constexpr bool kCopies = std::is_copy_constructible_v<T>;
template <class T>
requires requires {
    typename T::allocator_type;
    typename T::value_type;
} &&(!std::is_same_v<typename T::value_type, T>)inline constexpr bool kCopies<T> =
    std::is_copy_constructible_v<T> && kCopies<typename T::value_type>;
template <class T>
inline constexpr bool kCopies<std::optional<T>> = kCopies<T>;
template <class T, std::size_t kSize>
inline constexpr bool kCopies<std::array<T, kSize>> = kCopies<T>;
template <class A, class B>
inline constexpr bool kCopies<std::pair<A, B>> = kCopies<A>&& kCopies<B>;
template <class... Ts>
inline constexpr bool kCopies<std::tuple<Ts...>> = (kCopies<Ts> && ...);

// Reads a result that travelled. Incomplete here: a file that asks a Future for its result includes
// what starts tasks (<sidestep/pool.hpp>, thread_pool.hpp, promise.hpp, manager.hpp), or
// <sidestep/detail/result_reader.hpp>. One that only hands Futures on needs no cereal.
template <class T>
struct ResultReader;

// What then() does. Incomplete here, as ResultReader, for the same files.
template <class T>
struct Then;

template <class T>
T result_of(const TaskState& task) {
    if (const void* here = task.value()) {
        if constexpr (std::is_void_v<T>)
            return;
        else if constexpr (kCopies<T>)
            return *static_cast<const T*>(here);
        else  // there is one, and the first to ask gets it
            return std::move(*static_cast<T*>(const_cast<void*>(here)));
    }
    if constexpr (ResultReader<T>::kReads)
        return ResultReader<T>::read(task.result());
    else
        throw_empty_future();
}
// What result_of() would throw, or null. Reads the result, if it travelled.
template <class T>
std::exception_ptr failure_of(const TaskState& task) {
    if (std::exception_ptr error = task.error()) return error;
    if constexpr (ResultReader<T>::kReads && !std::is_void_v<T> && !std::is_arithmetic_v<T>) {
        try {
            if (!task.value()) (void)ResultReader<T>::read(task.result());
        } catch (...) {
            return std::current_exception();
        }
    }
    return nullptr;
}
}  // namespace detail

template <class T>
class Future {
  public:
    using value_type = T;

    Future() = default;
    explicit Future(detail::TaskRef task) : task_(std::move(task)) {}

    bool valid() const { return static_cast<bool>(task_); }

    // The result. Blocks until it is there.
    T get() const {
        task().wait({});
        return detail::result_of<T>(*task_);
    }
    // The same; throws TimeoutError if it is not there in time, and the task goes on.
    T get(Timeout timeout) const {
        if (!wait_for(timeout)) detail::throw_get_timeout(timeout);
        return detail::result_of<T>(*task_);
    }
    // So do these: until the result is there. Callbacks may not have run yet: they are called
    // in another thread, and join() and the pool's destructor return after the last of them.
    void wait() const { task().wait({}); }
    // True: the result is there. Zero or less only looks.
    [[nodiscard]] bool wait_for(Timeout timeout) const {
        return task().wait(detail::deadline_after(timeout));
    }
    [[nodiscard]] bool ready() const { return task().poll(); }
    // True only while a worker is at it: not while it waits in a queue.
    [[nodiscard]] bool running() const { return task().running(); }

    // What get() would throw; null if there is a value. Blocks until it is known. It does not read
    // the value: whether that can be read back, get() finds out.
    std::exception_ptr exception() const {
        task().wait({});
        return task_->error();
    }
    // The same; throws TimeoutError if it is not known in time.
    std::exception_ptr exception(Timeout timeout) const {
        if (!wait_for(timeout)) detail::throw_get_timeout(timeout);
        return task_->error();
    }

    // What the task wrote to stdout and stderr (task_output.hpp); of one that was retried, what its
    // last attempt wrote. Blocks until the task is done. Throws std::logic_error if nobody captured
    // that: without Output::capture, and for futures of map_async, ThreadPool and Promise.
    TaskOutput output() const {
        task().wait({});
        return detail::output_of(*task_);
    }

    // Ends the task: one that waits is taken back; one that runs fails at once with CancelledError,
    // while it is asked to stop; one that does not heed that loses its worker, which is replaced
    // (PoolOptions::stop_grace). False: it was finished.
    bool cancel() { return task().cancel(); }
    [[nodiscard]] bool cancelled() const { return task().poll() && task_->cancelled(); }

    // Calls f(future) once the task is done, in a thread of the pool; at once and in this thread if
    // it is done already. Callbacks of one pool are called one after the other, and a slow one
    // holds up those behind it, but no task. What a callback throws is reported on stderr.
    template <class F>
    void add_done_callback(F f) const {
        std::function<void()> callback = [f = std::move(f), future = *this]() mutable {
            f(future);
        };
        if (task().add_callback(callback)) return;
        detail::Callbacks now;
        now.push_back(std::move(callback));
        detail::run_callbacks(std::move(now));
    }

    // add_done_callback for one of the outcomes; both return this future, so that they chain:
    // pool.submit(f, x).on_value(use).on_error(report). A result that cannot be read back is an
    // error: to see to that, each of them reads it, unless it is a number.
    template <class F>  // f(value), or f() if there is none
    const Future& on_value(F f) const {
        add_done_callback([f = std::move(f)](const Future& done) mutable {
            if (done.exception()) return;
            if constexpr (std::is_void_v<T>) {
                f();
            } else {
                std::optional<T> value;
                try {
                    value.emplace(done.get());
                } catch (...) {  // on_error()'s
                    return;
                }
                f(std::move(*value));
            }
        });
        return *this;
    }
    template <class F>  // f(std::exception_ptr)
    const Future& on_error(F f) const {
        add_done_callback([f = std::move(f)](const Future& done) mutable {
            if (std::exception_ptr error = detail::failure_of<T>(*done.task_)) f(error);
        });
        return *this;
    }

    // f(value), or f() if there is none, as a task of the same pool, whose future is returned:
    // pool.submit(f, future), where it says what that does. Throws what submit() throws;
    // std::logic_error for a future that is no pool's (of a Promise, map_async, when_all), or of a
    // ThreadPool that is gone, and for an f that cannot be sent to a process (task.hpp) but would
    // have to be.
    template <class F>
    auto then(F&& f) const {
        (void)task();
        return detail::Then<T>::start(*this, std::forward<F>(f));
    }

    // co_await future: the coroutine goes on in the thread that calls the callbacks.
    auto operator co_await() const {
        struct Awaiter {
            Future future;
            bool await_ready() const { return future.ready(); }
            bool await_suspend(std::coroutine_handle<> handle) const {
                std::function<void()> resume = [handle] { handle.resume(); };
                return future.task().add_callback(resume);  // false: it is done, go on
            }
            T await_resume() const { return future.get(); }
        };
        return Awaiter{*this};
    }

    // "Future: running", "Future: finished with an error: division by zero": for logs.
    std::string describe() const { return detail::describe_task(task()); }

    const detail::TaskRef& state() const { return task_; }  // internal

  private:
    detail::TaskState& task() const {
        if (!task_) detail::throw_empty_future();
        return *task_;
    }
    detail::TaskRef task_;
};

template <class T>
inline constexpr bool detail::stays_here<Future<T>> = true;

}  // namespace sidestep
