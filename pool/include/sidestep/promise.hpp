// Promise<T>: the other side of a Future, for adapters and tests: whoever has it says what the
// result is.
//
// Ownership: moved, not copied. One that goes without having said anything fails its future with
//            PoolError.
// Threads:   thread-safe. The futures' callbacks are called in the thread that sets the result.
// Fork:      nothing crosses: the copy in a forked child is a promise of its own.
// Errors:    InvalidStateError if there is a result already, or the future was cancelled.
#pragma once

#include <exception>
#include <new>
#include <utility>

#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/local_task.hpp>
#include <sidestep/detail/result_reader.hpp>
#include <sidestep/future.hpp>

namespace sidestep::inline v0 {

template <class T>
class Promise;
namespace detail {
template <class T, class Work>
void fulfil(Promise<T>& promise, Work&& work);
}

template <class T>
class Promise {
  public:
    Promise() : task_(detail::LocalTask<T>::create()) {}
    Promise(Promise&&) = default;
    Promise& operator=(Promise&& other) noexcept {
        std::swap(task_, other.task_);
        return *this;
    }
    ~Promise() {
        if (!task_) return;
        std::exception_ptr error;
        try {
            error = std::make_exception_ptr(
                PoolError("the promise was dropped without a result: nobody will set one"));
        } catch (const std::bad_alloc&) {  // what is there without memory
            error = std::current_exception();
        }
        task_->try_fail(std::move(error));
    }

    Future<T> future() const { return Future<T>(detail::TaskRef(detail::Ref(task_))); }

    // The work begins: running() is true from now on, and the future cannot be cancelled any more.
    // False: it was cancelled, and the work should not be done.
    bool set_running_or_notify_cancel() { return task_->start(); }
    void set_value(typename detail::LocalTask<T>::Value value) { task_->set(std::move(value)); }
    void set_value() requires std::is_void_v<T> { task_->set({}); }
    void set_exception(std::exception_ptr error) { task_->fail(std::move(error)); }

  private:
    template <class U, class Work>
    friend void detail::fulfil(Promise<U>& promise, Work&& work);
    detail::Ref<detail::LocalTask<T>> task_;
};

namespace detail {

// The promise gets what work() returns or throws; if it was cancelled meanwhile, that is dropped.
template <class T, class Work>
void fulfil(Promise<T>& promise, Work&& work) {
    if (!promise.set_running_or_notify_cancel()) return;
    try {
        if constexpr (std::is_void_v<T>) {
            work();
            (void)promise.task_->try_set({});
        } else {
            (void)promise.task_->try_set(work());
        }
    } catch (...) {
        pass_on_forced_unwind();
        (void)promise.task_->try_fail(std::current_exception());
    }
}

}  // namespace detail

}  // namespace sidestep
