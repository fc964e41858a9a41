// How a Future starts a task of its own pool. Internal: comes with both pools.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

#include <sidestep/detail/late_arguments.hpp>
#include <sidestep/detail/late_job.hpp>
#include <sidestep/future.hpp>

namespace sidestep::inline v0::detail {

[[noreturn]] void throw_no_pool();
[[noreturn]] void throw_not_sendable();

template <class T>
struct Then {
    using Values = typename Late<Future<T>>::Values;

    template <class F>
    static constexpr bool sendable() {
        if constexpr (!TaskCallable<F>)
            return false;
        else if constexpr (std::is_void_v<T>)
            return true;
        else
            return Travels<T> &&
                   (std::is_default_constructible_v<T> || std::is_constructible_v<T, Blank>);
    }

    template <class F>
    static auto start(const Future<T>& future, F&& f) {
        using Callable = std::decay_t<F>;
        static_assert(LateInvoke<Callable, Values>::kCan,
                      "then(f): f cannot be called with the future's value");
        using Result = decltype(LateInvoke<Callable, Values>::result());
        if (const std::shared_ptr<PoolCore>* core = future.state()->process_pool()) {
            if constexpr (sendable<Callable>())
                return submit_late_call(*core, nullptr, std::forward<F>(f), future);
            else
                throw_not_sendable();
        }
        if (std::shared_ptr<ThreadPoolCore> core = future.state()->thread_pool())
            return submit_late_thread_call(core, nullptr, std::forward<F>(f), future);
        throw_no_pool();
        return Future<Result>();
    }
};

}  // namespace sidestep::detail
