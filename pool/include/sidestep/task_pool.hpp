// this_task::pool(): the pool that runs a task, for the task itself.
//
//     long fib(int n) {
//         if (n < 20) return slow_fib(n);
//         auto left = sidestep::this_task::pool().submit(fib, n - 1);
//         return fib(n - 2) + left.get();
//     }
//     int main() {
//         sidestep::init();
//         sidestep::Pool pool;
//         std::cout << pool.submit(fib, 30).get();
//     }
//
// A task may submit to its own pool and wait for what becomes of that, as deep as it likes: a pool
// of one worker is enough. While it waits its worker counts as none: another one takes its place,
// and gets tasks meanwhile, up to twice PoolOptions::processes in all. (They stay, without tasks
// while they are not needed, until the pool has had nothing to do for a second.) Beyond that those
// who wait run nested tasks themselves meanwhile: what they wait for, if nobody has begun that, or
// others. Then a crash takes both, the limits are those of the task that waits, its output goes
// with that one's, there are no retries, and for stats() it is a task that was cancelled.
//
// Options of its own are kept all the same: a nested task with a timeout, a soft_timeout, a
// memory_limit, a retry or tokens has a worker of its own, and so has what then() makes, and what
// that comes after. They are begun before all that waits in the pool, whatever its priority, the
// last one first; and while all workers wait, the pool has one more of them for each such task that
// could begin, beyond twice its processes, up to 1024. (Of a recursion that is one for each level.)
//
// In a Pool of processes: a call is a message to the process of the pool, and its answer. In a
// ThreadPool and in a pool without workers (processes = 0) it is none: a thread that waits is
// replaced by another one, and a nested task of the latter runs in submit(). What can be a task is
// the same everywhere (task.hpp), whichever pool it is: it travels. On another host of a pool
// (cluster.hpp), nested tasks run there; they have no tokens (std::invalid_argument).
//
// Ownership: a handle, which may be copied, and may outlive its task; what it is a handle of ends
//            with the worker or the pool: std::logic_error then.
// Threads:   thread-safe; any thread of the task's process may have it. Only the thread that runs
//            the task makes room for others when it waits.
// Fork:      a forked copy of a worker must not use it (std::logic_error).
// Peer death: what a task has submitted goes on when the task ends, and whoever has the future can
//            have the result. When its worker dies, or is ended by a timeout or a cancel(), what it
//            has submitted and still had a future of is cancelled, too.
// Errors:    std::logic_error outside any task, and when the pool is terminated or has ended (after
//            close() alone it takes nested tasks: they belong to one that was submitted before).
//            get() throws what it throws of a Pool: what the task threw, WorkerLost, TaskTimeout,
//            OutOfMemory, CancelledError, BrokenPool. PoolError if the pool cannot be reached (the
//            task has closed its worker's descriptors).
// Limits:    PoolOptions::task holds for nested tasks; max_pending does not hold them up. Waiting
//            with a timeout may take longer than that, by as much as a nested task takes that this
//            thread runs. Future::running() is false. A future is no argument: then() is what
//            there is for what comes next, and when_all() to wait for several.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <iterator>
#include <memory>
#include <ranges>
#include <type_traits>
#include <utility>
#include <vector>

#include <sidestep/detail/nested_pool.hpp>
#include <sidestep/detail/result_reader.hpp>
#include <sidestep/detail/sent_options.hpp>
#include <sidestep/detail/stored.hpp>
#include <sidestep/detail/then.hpp>
#include <sidestep/future.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/task.hpp>
#include <sidestep/task_options.hpp>

namespace sidestep::inline v0 {

namespace detail {

// Some items of a nested map.
template <class F, class Item>
struct NestedChunk {
    Bound<F> f;

    auto operator()(std::vector<Item> items) const {
        using Result = std::decay_t<std::invoke_result_t<const Bound<F>&, Item&&>>;
        if constexpr (std::is_void_v<Result>) {
            for (auto&& item : items) f(Item(std::move(item)));
        } else {
            std::vector<Result> results;
            results.reserve(items.size());
            for (auto&& item : items) results.push_back(f(Item(std::move(item))));
            return results;
        }
    }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(f);
    }
};

}  // namespace detail

class TaskPool {
  public:
    explicit TaskPool(std::shared_ptr<detail::NestedPool> pool) : pool_(std::move(pool)) {}

    // f(args...) as a task of the pool: what can be a task of a Pool (task.hpp).
    template <class F, class... Args>
    requires(!std::same_as<std::decay_t<F>, TaskOptions>) auto submit(F&& f, Args&&... args) const {
        return submit_task(nullptr, f, args...);
    }
    // With options of its own: this_task::pool().submit({.timeout = 2s}, f, x). All but `key` and
    // `retry.when` (std::invalid_argument).
    template <class F, class... Args>
    auto submit(const TaskOptions& options, F&& f, Args&&... args) const {
        detail::check_sent_options(options);
        return submit_task(&options, f, args...);
    }

    // The results of f(item), in order, as a std::vector; nothing if f returns nothing. Some items
    // are one task. Throws what the first of them that fails throws.
    template <class F, std::ranges::input_range Range>
    auto map(F&& f, Range&& items) const {
        using Item = detail::Stored<std::ranges::range_value_t<std::remove_reference_t<Range>>>;
        using Chunk = detail::NestedChunk<std::decay_t<F>, Item>;
        std::vector<Item> all;
        for (auto&& item : items) all.emplace_back(std::forward<decltype(item)>(item));
        const Chunk chunk{Bound<std::decay_t<F>>(std::forward<F>(f), {})};
        using Results = decltype(submit(chunk, all).get());
        const std::size_t wanted = std::size_t(4) * std::max(1u, processes());
        const std::size_t size = std::max<std::size_t>(1, (all.size() + wanted - 1) / wanted);
        std::vector<Future<Results>> futures;
        for (std::size_t at = 0; at < all.size(); at += size) {
            const auto begin = all.begin() + static_cast<std::ptrdiff_t>(at);
            const auto end = begin + static_cast<std::ptrdiff_t>(std::min(size, all.size() - at));
            futures.push_back(submit(chunk, std::vector<Item>(std::make_move_iterator(begin),
                                                              std::make_move_iterator(end))));
        }
        try {
            if constexpr (std::is_void_v<Results>) {
                for (const Future<Results>& part : futures) part.get();
            } else {
                Results results;
                for (const Future<Results>& part : futures)
                    for (auto&& result : part.get()) results.push_back(std::move(result));
                return results;
            }
        } catch (...) {  // that is the map's error; those of other parts are nobody's
            for (const Future<Results>& part : futures)
                part.add_done_callback([](const auto& done) { (void)done.exception(); });
            throw;
        }
    }

    // The number of workers that the pool was made with, or resized to: of threads, in a
    // ThreadPool; 0 without workers.
    unsigned processes() const { return pool_->processes(); }

  private:
    template <class F, class... Args>
    auto submit_task([[maybe_unused]] const TaskOptions* options, [[maybe_unused]] const F& f,
                     [[maybe_unused]] const Args&... args) const {
        using Callable = std::decay_t<F>;
        using Check = detail::TaskCheck<Callable, detail::Stored<Args>...>;
        Check::check();
        if constexpr (!Check::kFine) {
            return detail::Refused();
        } else {
            using Body = detail::Call<Callable, detail::Stored<Args>...>;
            detail::NestedOrder order(detail::task_kind<Body>(f));
            order.options = options;
            OutputArchive archive(order.arguments, &order.fds);
            detail::save_callable<Callable>(archive, f);
            (archive(detail::stored_as<detail::Stored<Args>>(args)), ...);
            return Future<detail::ResultOf<Callable, detail::Stored<Args>...>>(
                pool_->submit(order));
        }
    }

    std::shared_ptr<detail::NestedPool> pool_;
};

template <>
inline constexpr bool detail::stays_here<TaskPool> = true;

namespace this_task {

// The pool that runs this task. Throws std::logic_error outside any.
TaskPool pool();

}  // namespace this_task

}  // namespace sidestep
