// One future of several: when_all() and when_any().
//
//     std::vector<int> all = when_all(futures).get();
//     auto [size, name] = when_all(pool.submit(size_of, x), pool.submit(name_of, x)).get();
//     auto [index, value] = when_any(futures).get();
//
// The futures may be of different pools, thread pools and promises. A task that needs the values
// can have the futures as arguments instead (pool_face.hpp), also a vector of them: where they are
// a Pool's, the values then do not come by way of this process's types.
//
// Ownership: the result keeps the futures until it is known. To cancel it cancels none of them, and
//            if it is dropped they go on.
// Threads:   thread-safe. The values are read where the callbacks of the future that came last run
//            (future.hpp): a slow callback of its pool holds them up.
// Errors:    the error of the first that fails, or the CancelledError of one that is cancelled, at
//            once: nobody waits for the others. std::invalid_argument: when_any of none;
//            std::logic_error: an empty future is among them.
//            then() is not for these: pool.submit(f, when_all(...)) says which pool.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <sidestep/detail/local_task.hpp>
#include <sidestep/future.hpp>
#include <sidestep/futures.hpp>

namespace sidestep::inline v0 {

// Which future was the first, by its place among those that were given, and what it has.
template <class T>
struct FirstOf {
    std::size_t index = 0;
    T value{};

    template <class Archive>
    void serialize(Archive& archive) {
        archive(index, value);
    }
};

namespace detail {

[[noreturn]] void throw_any_of_none();
// Calls told(i) when the i-th of these is done, where its callbacks run.
void tell_each(const std::vector<TaskRef>& tasks, std::function<void(std::size_t)> told);
// What befell a task befalls the one that waits for it. False: it has a value.
bool pass_failure(const TaskState& from, LocalTaskBase& to);

template <class Value, class Gather>
Future<Value> gather_when_all(std::vector<TaskRef> tasks, Gather gather) {
    struct State {
        Ref<LocalTask<Value>> result;
        std::vector<TaskRef> tasks;
        Gather gather;
        std::atomic<std::size_t> left;
    };
    auto result = LocalTask<Value>::create();
    auto finish = [](State& state) {
        try {
            if constexpr (std::is_void_v<Value>)
                state.result->try_set({});
            else
                state.result->try_set(state.gather(state.tasks));
        } catch (...) {  // a value that cannot be read
            state.result->try_fail(std::current_exception());
        }
        state.tasks.clear();
    };
    std::size_t count = tasks.size();
    auto state =
        std::shared_ptr<State>(new State{result, std::move(tasks), std::move(gather), {count}});
    if (count == 0) finish(*state);
    std::vector<TaskRef> listened = state->tasks;
    tell_each(listened, [state, finish](std::size_t i) {
        // What failed leaves the others uncounted: the tasks are not cleared under anybody's feet.
        if (pass_failure(*state->tasks[i], *state->result)) return;
        if (state->left.fetch_sub(1, std::memory_order_acq_rel) == 1) finish(*state);
    });
    return Future<Value>(TaskRef(std::move(result)));
}

template <class T>
using PartOfAll = std::conditional_t<std::is_void_v<T>, std::monostate, T>;
template <class T>
PartOfAll<T> part_of_all(const TaskState& task) {
    if constexpr (std::is_void_v<T>)
        return {};
    else
        return result_of<T>(task);
}

}  // namespace detail

// All values, in the order of the futures, as a std::vector; of Future<void> a Future<void>.
template <detail::FutureRange Range>
auto when_all(const Range& futures) {
    using T = typename std::ranges::range_value_t<Range>::value_type;
    std::vector<detail::TaskRef> tasks;
    for (const auto& future : futures) tasks.push_back(future.state());
    if constexpr (std::is_void_v<T>) {
        return detail::gather_when_all<void>(std::move(tasks), 0);
    } else {
        auto gather = [](const std::vector<detail::TaskRef>& done) {
            std::vector<T> values;
            values.reserve(done.size());
            for (const detail::TaskRef& task : done) values.push_back(detail::result_of<T>(*task));
            return values;
        };
        return detail::gather_when_all<std::vector<T>>(std::move(tasks), gather);
    }
}

// The same as a std::tuple; in place of void a std::monostate.
template <class... Ts>
auto when_all(const Future<Ts>&... futures) {
    using Values = std::tuple<detail::PartOfAll<Ts>...>;
    auto gather = [](const std::vector<detail::TaskRef>& done) {
        return [&done]<std::size_t... kIndex>(std::index_sequence<kIndex...>) {
            return Values{detail::part_of_all<Ts>(*done[kIndex])...};
        }
        (std::index_sequence_for<Ts...>());
    };
    return detail::gather_when_all<Values>({futures.state()...}, gather);
}

// The first that is done; of Future<void> its index alone.
template <detail::FutureRange Range>
auto when_any(const Range& futures) {
    using T = typename std::ranges::range_value_t<Range>::value_type;
    using Value = std::conditional_t<std::is_void_v<T>, std::size_t, FirstOf<detail::PartOfAll<T>>>;
    struct State {
        detail::Ref<detail::LocalTask<Value>> result;
        std::vector<detail::TaskRef> tasks;
        std::atomic<bool> is_known{false};
    };
    auto result = detail::LocalTask<Value>::create();
    auto state = std::make_shared<State>();
    state->result = result;
    for (const auto& future : futures) state->tasks.push_back(future.state());
    if (state->tasks.empty()) detail::throw_any_of_none();
    std::vector<detail::TaskRef> tasks = state->tasks;
    detail::tell_each(tasks, [state](std::size_t i) {
        if (state->is_known.exchange(true)) return;
        const detail::TaskState& task = *state->tasks[i];
        if (!detail::pass_failure(task, *state->result)) {
            try {
                if constexpr (std::is_void_v<T>)
                    state->result->try_set(i);
                else
                    state->result->try_set({i, detail::result_of<T>(task)});
            } catch (...) {
                state->result->try_fail(std::current_exception());
            }
        }
        state->tasks.clear();
    });
    return Future<Value>(detail::TaskRef(std::move(result)));
}

}  // namespace sidestep
