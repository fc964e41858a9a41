// How a Future starts a task of its own pool. Internal: comes with both pools.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>

#include <sidestep/detail/late_arguments.hpp>
#include <sidestep/detail/late_job.hpp>
#include <sidestep/detail/nested_pool.hpp>
#include <sidestep/future.hpp>

namespace sidestep::inline v0::detail {

[[noreturn]] void throw_no_pool();
[[noreturn]] void throw_not_sendable();

// A task's arguments are a callable, and then the result of another one as that has written it.
template <class F, class T>
struct ThenCall {
    static void run(InputArchive& arguments, OutputArchive& result) {
        F f = load_callable<F>(arguments);
        std::tuple<T> values(read(arguments.view(arguments.remaining())));
        call_for_result(f, values, result);
    }

  private:
    static T read(std::span<const std::byte> bytes) {
        try {
            return ResultReader<T>::read(bytes);
        } catch (...) {
            rethrow_unread(kResultAsArgument);
        }
    }
};
template <class F>
struct ThenCall<F, void> : Call<F> {};

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
        constexpr bool called = LateInvoke<Callable, Values>::kCan;
        static_assert(called, "then(f): f cannot be called with the future's value");
        if constexpr (called)
            return start_task(future, std::forward<F>(f));
        else
            return Refused();
    }

  private:
    template <class F>
    static auto start_task(const Future<T>& future, F&& f) {
        using Callable = std::decay_t<F>;
        using Result = decltype(LateInvoke<Callable, Values>::result());
        if (const std::shared_ptr<PoolCore>* core = future.state()->process_pool()) {
            if constexpr (sendable<Callable>())
                return submit_late_call(*core, nullptr, in_task_beside(*future.state()),
                                        std::forward<F>(f), future);
            else
                throw_not_sendable();
        }
        if (std::shared_ptr<NestedPool> pool = future.state()->nested_pool()) {
            if constexpr (sendable<Callable>())
                return Future<Result>(submit_nested<Callable>(*pool, future, f));
            else
                throw_not_sendable();
        }
        if (std::shared_ptr<ThreadPoolCore> core = future.state()->thread_pool())
            return submit_late_thread_call(core, nullptr, in_task_beside(*future.state()),
                                           std::forward<F>(f), future);
        throw_no_pool();
        return Future<Result>();
    }

    template <class Callable>
    static TaskRef submit_nested(NestedPool& pool, const Future<T>& future, const Callable& f) {
        NestedOrder order(task_kind<ThenCall<Callable, T>>(f));
        OutputArchive archive(order.arguments, &order.fds);
        save_callable<Callable>(archive, f);
        order.after = future.state();
        return pool.submit(order);
    }
};

}  // namespace sidestep::detail
