// A call in a thread of a ThreadPool whose arguments are futures: they become values in the thread
// that runs it, which decodes what travelled. Internal.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <sidestep/detail/late_arguments.hpp>
#include <sidestep/detail/local_task.hpp>
#include <sidestep/thread_stream.hpp>

namespace sidestep::inline v0::detail {

// The job is queued when all of these are done, or one of them has no value: then it was refuse()d.
void submit_late_job(const std::shared_ptr<ThreadPoolCore>& core, std::unique_ptr<ThreadJob> job,
                     std::vector<TaskRef> needs, const TaskOptions* options);

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
class LateJob final : public ThreadJob {
  public:
    template <class G, class... Values>
    LateJob(Ref<LocalTask<Result>> task, G&& f, Values&&... values)
        : task_(std::move(task)),
          f_(std::forward<G>(f)),
          arguments_(std::forward<Values>(values)...) {
        std::apply([this](const Args&... each) { (Late<Args>::needs(each, needs_), ...); },
                   arguments_);
    }
    const std::vector<TaskRef>& needs() const { return needs_; }
    LocalTaskBase& task() override { return *task_; }
    bool runs_again() const override { return (kCopies<typename Late<Args>::Values> && ...); }
    const void* function() const override { return function_address(f_); }
    void refuse(const std::exception_ptr& error, bool cancelled) noexcept override {
        refused_ = error;
        cancelled_ = cancelled;
    }
    void run(bool last) override {
        if (refused_) {
            (void)(cancelled_ ? task_->fail_cancelled(refused_) : task_->try_fail(refused_));
            return;
        }
        auto call = [this](auto&&... values) -> Result {
            return std::invoke(f_, std::forward<decltype(values)>(values)...);
        };
        auto values = std::apply(
            [last](Args&... each) { return std::tuple_cat(taken_values(each, last)...); },
            arguments_);
        if constexpr (std::is_void_v<Result>) {
            std::apply(call, std::move(values));
            task_->try_set({});
        } else {
            task_->try_set(std::apply(call, std::move(values)));
        }
    }

  private:
    Ref<LocalTask<Result>> task_;
    F f_;
    std::tuple<Args...> arguments_;
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
                             const TaskOptions* options, F&& f, Args&&... args) {
    using Callable = std::decay_t<F>;
    using Values = decltype(std::tuple_cat(
        std::declval<typename Late<LateKept<Callable, Args, Args...>>::Values>()...));
    using Result = decltype(LateInvoke<Callable, Values>::result());
    using Job = LateJob<Result, Callable, LateKept<Callable, Args, Args...>...>;
    auto task = LocalTask<Result>::create();
    auto job = std::make_unique<Job>(task, std::forward<F>(f), std::forward<Args>(args)...);
    std::vector<TaskRef> needs = job->needs();
    submit_late_job(core, std::move(job), std::move(needs), options);
    return Future<Result>(TaskRef(std::move(task)));
}

}  // namespace sidestep::detail
