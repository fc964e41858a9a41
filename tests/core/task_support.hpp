// Runs a task as a worker does, from bytes to bytes.
#pragma once

#include <optional>
#include <tuple>
#include <utility>

#include <sidestep/task.hpp>

#include "archive_support.hpp"

namespace test {

template <class F, class... Args>
using CallOf = sidestep::detail::Call<F, sidestep::detail::Stored<Args>...>;

template <class F, class... Args>
Bytes saved_call(const F& f, Args&&... args) {
    using namespace sidestep::detail;
    TaskCheck<F, Stored<Args>...>::check();
    HeapBuffer buffer;
    sidestep::OutputArchive archive(buffer);
    save_callable<F>(archive, f);
    archive(std::tuple<Stored<Args>...>(std::forward<Args>(args)...));
    return {buffer.bytes().begin(), buffer.bytes().end()};
}

inline Bytes run_entry(const sidestep::detail::TaskEntry& entry, const Bytes& arguments) {
    sidestep::InputArchive input(arguments);
    sidestep::detail::HeapBuffer buffer;
    sidestep::OutputArchive output(buffer);
    entry.run(input, output);
    return {buffer.bytes().begin(), buffer.bytes().end()};
}

// f(args...) by way of its identity and its bytes. A task without a result yields a tuple<>.
template <class F, class... Args>
auto run_task(F f, Args&&... args) {
    using namespace sidestep::detail;
    const TaskEntry* entry = find_entry(task_id<CallOf<F, Args...>>());
    if (!entry) throw std::logic_error("the task's entry is not found");
    using Result = ResultOf<F, Stored<Args>...>;
    Bytes result = run_entry(*entry, saved_call(f, std::forward<Args>(args)...));
    if constexpr (std::is_void_v<Result>)
        return loaded<std::tuple<>>(result);
    else
        return loaded<Result>(result);
}

// Two sources define functions of the same name, with lambdas of the same type name in them.
sidestep::detail::TaskId twin_a_id();
sidestep::detail::TaskId twin_b_id();
int run_twin_a(int x);
int run_twin_b(int x);
sidestep::detail::TaskId twin_a_function_id();
sidestep::detail::TaskId twin_b_function_id();
int run_twin_a_function(int x);
int run_twin_b_function(int x);

}  // namespace test
