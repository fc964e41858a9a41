// A call in a thread of a ThreadPool whose arguments are futures: they become values in the thread
// that runs it, which decodes what travelled. Internal.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <sidestep/detail/late_arguments.hpp>
#include <sidestep/detail/stored.hpp>
#include <sidestep/detail/thread_job.hpp>

namespace sidestep::inline v0::detail {

// The job is queued when all of these are done, or one of them has no value: then it was refuse()d.
void submit_late_job(const std::shared_ptr<ThreadPoolCore>& core, ThreadJobPtr job,
                     std::vector<TaskRef> needs, const TaskOptions* options, bool begun);

// What it takes of a T that is no future: moved out, or copied.
template <class T>
typename Late<T>::Values taken_values(T& argument, bool may_move) {
    if constexpr (Late<T>::kIs) {
        return late_values(argument);
    } else if constexpr (kCopies<T>) {
        if (!may_move) return std::tuple<T>(argument);
        return std::tuple<T>(std::move(argument));
    } else {
        return std::tuple<T>(std::move(argument));
    }
}

template <class Result, class F, class... Args>
class LateJob final : public LocalTask<Result, ThreadJob> {
  public:
    template <class G, class... Values>
    explicit LateJob(G&& f, Values&&... values)
        : call_(std::in_place, std::forward<G>(f),
                std::tuple<Args...>(std::forward<Values>(values)...)) {
        std::apply([this](const Args&... each) { (Late<Args>::needs(each, needs_), ...); },
                   call_->arguments);
    }
    const std::vector<TaskRef>& needs() const { return needs_; }
    bool runs_again() const override { return (kCopies<typename Late<Args>::Values> && ...); }
    const void* function() const override { return function_address(call_->f); }
    void drop_call() noexcept override {
        call_.reset();
        needs_ = {};
        refused_ = nullptr;
    }
    void refuse(const std::exception_ptr& error, bool cancelled) noexcept override {
        refused_ = error;
        cancelled_ = cancelled;
    }
    void run(bool last) override {
        if (refused_) {
            (void)(cancelled_ ? this->fail_cancelled(refused_) : this->try_fail(refused_));
            return;
        }
        auto call = [this](auto&&... values) -> Result {
            return std::invoke(call_->f, std::forward<decltype(values)>(values)...);
        };
        auto values = std::apply(
            [last](Args&... each) { return std::tuple_cat(taken_values(each, last)...); },
            call_->arguments);
        if constexpr (std::is_void_v<Result>) {
            std::apply(call, std::move(values));
            this->try_set({});
        } else {
            this->try_set(std::apply(call, std::move(values)));
        }
    }

  private:
    struct Call {
        Call(F its_f, std::tuple<Args...> its_arguments)
            : f(std::move(its_f)), arguments(std::move(its_arguments)) {}
        F f;
        std::tuple<Args...> arguments;
    };

    std::optional<Call> call_;
    std::vector<TaskRef> needs_;
    std::exception_ptr refused_;
    bool cancelled_ = false;
};

template <class F, class Values>
struct LateInvoke;
template <class F, class... Values>
struct LateInvoke<F, std::tuple<Values...>> {
    static constexpr bool kCan = std::is_invocable_v<F&, Values&&...>;
    template <class Callable = F>
    static auto result() -> std::decay_t<std::invoke_result_t<Callable&, Values&&...>>;
};
// As what arguments are kept: see KeptArgument.
template <class F, class... Args>
inline constexpr bool kTakesStored =
    LateInvoke<F, decltype(std::tuple_cat(std::declval<LateStored<Args>>()...))>::kCan;
template <class F, class Arg, class... Args>
using LateKept =
    std::conditional_t<kTakesStored<F, Args...> && !kIsLate<Arg>, Stored<Arg>, std::decay_t<Arg>>;

template <class F, class... Args>
auto submit_late_thread_call(const std::shared_ptr<ThreadPoolCore>& core,
                             const TaskOptions* options, bool begun, F&& f, Args&&... args) {
    using Callable = std::decay_t<F>;
    using Values = decltype(std::tuple_cat(
        std::declval<typename Late<LateKept<Callable, Args, Args...>>::Values>()...));
    using Result = decltype(LateInvoke<Callable, Values>::result());
    using Job = LateJob<Result, Callable, LateKept<Callable, Args, Args...>...>;
    std::unique_ptr<Job, EndJob> job(new Job(std::forward<F>(f), std::forward<Args>(args)...));
    Future<Result> future(task_of(*job));
    std::vector<TaskRef> needs = job->needs();
    submit_late_job(core, std::move(job), std::move(needs), options, begun);
    return future;
}

}  // namespace sidestep::detail
