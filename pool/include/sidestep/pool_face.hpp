// How functions are run over a Pool or a ThreadPool: both have these members.
//
// Threads: thread-safe, as the pool. Errors: std::logic_error after close(), BrokenPool.
#pragma once

#include <concepts>
#include <memory>
#include <ranges>
#include <type_traits>
#include <utility>

#include <sidestep/future.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/promise.hpp>
#include <sidestep/task_options.hpp>

namespace sidestep::inline v0 {

// Derived has submit_task(options or null, f, args...), stream<kSpread, kUnordered>(f, items,
// options), which makes a stream that has detach(), and run_in_background(work).
template <class Derived>
class PoolFace {
  public:
    // Runs f(args...) in a worker. Throws what an argument's `serialize` (in a ThreadPool: copying
    // it) throws; the pool goes on.
    //
    // An argument that is a future, of whichever pool or promise, arrives as its value: the task
    // begins when that is there, and nobody waits for it meanwhile, no worker either. So
    // are futures in a std::tuple and in a std::vector; nowhere else are they looked for, nor in
    // what a value holds. A Future<void> is waited for, and is no argument. (In a ThreadPool
    // std::ref(future) passes the handle.)
    // - If one has no value, the task has none either, at once, and is never begun: it gets that
    //   error, whose remote_traceback() tells the task that threw it, or is cancelled, too. To
    //   cancel the task cancels none of those that it waits for.
    // - join() waits for tasks that wait; the pool's destructor does so unless it is for what is no
    //   task of this pool, and nothing of the pool will bring that about: then it is cancelled.
    // - Timeouts and retries count from where it begins.
    // - Into a Pool a result goes from worker to worker as bytes, if it is of numbers, texts and
    //   standard containers of these; else it is read and written anew by a thread of this process,
    //   which does that for one task of the pool after the other. If that throws, that is the
    //   task's error. With processes = 0 such a thread runs the task if it had to wait.
    template <class F, class... Args>
    requires(!std::same_as<std::decay_t<F>, TaskOptions>) auto submit(F&& f, Args&&... args) {
        return pool().submit_task(nullptr, std::forward<F>(f), std::forward<Args>(args)...);
    }
    // The same with options of its own: pool.submit({.timeout = 2s}, f, x). Throws
    // std::invalid_argument for options that make no sense.
    template <class F, class... Args>
    auto submit(const TaskOptions& options, F&& f, Args&&... args) {
        detail::check_options(options);
        return pool().submit_task(&options, std::forward<F>(f), std::forward<Args>(args)...);
    }

    // submit(f, args...).get()
    template <class F, class... Args>
    auto apply(F&& f, Args&&... args) {
        return submit(std::forward<F>(f), std::forward<Args>(args)...).get();
    }
    // Python's name for submit().
    template <class F, class... Args>
    auto apply_async(F&& f, Args&&... args) {
        return submit(std::forward<F>(f), std::forward<Args>(args)...);
    }

    // f over the items of a range; the results in the order of the items (nothing if f returns
    // void). All items are run; then the error of the first that failed is thrown, if any did.
    // Items are pulled, and results decoded, in the calling thread.
    template <class F, std::ranges::input_range Range>
    auto map(F&& f, Range&& items, MapOptions options = {}) {
        return collect(imap(std::forward<F>(f), std::forward<Range>(items), options));
    }
    // The same with f called on the elements of each item, a tuple or pair: f(a, b, ...).
    template <class F, std::ranges::input_range Range>
    auto starmap(F&& f, Range&& items, MapOptions options = {}) {
        return collect(
            stream<true, false>(std::forward<F>(f), std::forward<Range>(items), options));
    }

    // A stream of results, in the order of the items or as they come; see stream.hpp.
    template <class F, std::ranges::input_range Range>
    auto imap(F&& f, Range&& items, MapOptions options = {}) {
        return stream<false, false>(std::forward<F>(f), std::forward<Range>(items), options);
    }
    template <class F, std::ranges::input_range Range>
    auto imap_unordered(F&& f, Range&& items, MapOptions options = {}) {
        return stream<false, true>(std::forward<F>(f), std::forward<Range>(items), options);
    }

    // map and starmap without waiting: the future has the std::vector of results. The items are
    // copied, or moved if they are a temporary. (A thread of this process feeds the workers.)
    template <class F, std::ranges::input_range Range>
    auto map_async(F&& f, Range&& items, MapOptions options = {}) {
        return in_background<false>(std::forward<F>(f), std::forward<Range>(items), options);
    }
    template <class F, std::ranges::input_range Range>
    auto starmap_async(F&& f, Range&& items, MapOptions options = {}) {
        return in_background<true>(std::forward<F>(f), std::forward<Range>(items), options);
    }

  protected:
    PoolFace() = default;
    ~PoolFace() = default;

  private:
    Derived& pool() { return static_cast<Derived&>(*this); }
    template <bool kSpread, bool kUnordered, class F, class Range>
    auto stream(F&& f, Range&& items, const MapOptions& options) {
        return pool().template stream<kSpread, kUnordered>(std::forward<F>(f),
                                                           std::forward<Range>(items), options);
    }
    template <class S>
    static auto collect(S results) {
        return std::move(results).collect();
    }
    template <bool kSpread, class F, class Range>
    auto in_background(F&& f, Range&& items, const MapOptions& options) {
        using S = decltype(stream<kSpread, false>(std::forward<F>(f),
                                                  std::declval<std::decay_t<Range>>(), options));
        using Results = decltype(std::declval<S>().collect());
        auto results = std::make_shared<S>(stream<kSpread, false>(
            std::forward<F>(f), std::decay_t<Range>(std::forward<Range>(items)), options));
        results->detach();
        auto promise = std::make_shared<Promise<Results>>();
        Future<Results> future = promise->future();
        pool().run_in_background([results, promise] {
            detail::fulfil(*promise, [&] { return std::move(*results).collect(); });
        });
        return future;
    }
};

}  // namespace sidestep
