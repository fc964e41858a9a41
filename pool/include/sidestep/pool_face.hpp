// How functions are run over a Pool or a ThreadPool: both have these members.
//
// Threads: thread-safe, as the pool. Errors: std::logic_error after close(), BrokenPool.
#pragma once

#include <concepts>
#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <utility>

#include <sidestep/detail/checks.hpp>
#include <sidestep/detail/listed_items.hpp>
#include <sidestep/detail/map_reduce.hpp>
#include <sidestep/detail/overloaded.hpp>
#include <sidestep/detail/refused_options.hpp>
#include <sidestep/detail/zipped.hpp>
#include <sidestep/future.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/promise.hpp>
#include <sidestep/task_options.hpp>

namespace sidestep::inline v0 {

namespace detail {

// What submit() says of the name of several functions, or of a function template: no template can
// tell which of them is meant, so the compiler would only say that nothing matches.
//
// The type of a callable that could not be found out: for a name of several functions it stays the
// default of its template parameter. So it does for options in braces, behind which a callable
// comes.
struct Overloaded {};

template <class F, class... Args>
struct RefuseOverloaded {};
template <class... Args>
requires(!kBeginsWithCallable<Args...>) struct RefuseOverloaded<Overloaded, Args...> {
    static_assert(sizeof...(Args) > 4096,
                  "this is the name of several functions, or of a template: say which one is "
                  "meant, by a lambda around it: submit([](int x) { return f(x); }, x). Or an "
                  "argument is in braces, and needs its type: submit(f, Point{1, 2})");
    using type = int;
};

// Of a starmap's items: says so if they have no elements.
template <class Range>
constexpr bool check_elements() {
    constexpr bool fine = requires {
        std::tuple_size<std::ranges::range_value_t<std::remove_reference_t<Range>>>::value;
    };
    static_assert(
        fine,
        "starmap() calls f on the elements of each item, a tuple, pair or array. Items "
        "that are f's argument: map(f, items); several ranges side by side: map(f, a, b)");
    return fine;
}

}  // namespace detail

// Derived has submit_task(options or null, f, args...), submit_part(the same), a task of a map that
// was begun before close(), stream<kSpread, kUnordered>(f, items, options), which makes a stream
// that has detach(), run_in_background(work), check_open(), take_place(), hold(), whose result
// join() waits for, and kRunsInThreads.
template <class Derived>
class PoolFace : private detail::RefusesNames,
                 private detail::RefusesOptions,
                 private detail::TakesLists<PoolFace<Derived>> {
    using Lists = detail::TakesLists<PoolFace>;
    friend Lists;

  public:
    // Of the name of several functions: a sentence that says so.
    using RefusesNames::apply, RefusesNames::apply_async, RefusesNames::try_submit;
    using RefusesNames::imap, RefusesNames::imap_unordered, RefusesNames::istarmap;
    using RefusesNames::map, RefusesNames::starmap, RefusesNames::map_reduce;
    using RefusesNames::map_async, RefusesNames::starmap_async, RefusesNames::find_any;
    // Of options that are another function's: likewise.
    using RefusesOptions::imap, RefusesOptions::imap_unordered, RefusesOptions::istarmap;
    using RefusesOptions::map_async, RefusesOptions::starmap_async;
    using RefusesOptions::map_reduce, RefusesOptions::find_any;
    using RefusesOptions::submit, RefusesOptions::map, RefusesOptions::starmap;
    // Items that are listed in the call: pool.map(f, {1, 2, 3}).
    using Lists::map, Lists::starmap, Lists::imap, Lists::imap_unordered, Lists::istarmap;
    using Lists::map_async, Lists::starmap_async, Lists::map_reduce, Lists::find_any;

    // Runs f(args...) in a worker. Throws what an argument's `serialize` (in a ThreadPool: copying
    // it) throws; the pool goes on.
    //
    // An argument that is a future, of whichever pool or promise, arrives as its value: the task
    // begins when that is there, and nobody waits for it meanwhile, no worker either. So
    // are futures in a std::tuple and in a std::vector; nowhere else are they looked for: not in
    // the items of a map, nor in what a value holds, so a future of a future arrives as a future.
    // A Future<void> is waited for, and is no argument. (In a ThreadPool std::ref(future) passes
    // the handle.)
    // - If one has no value, the task has none either, at once (in a ThreadPool when a thread is
    //   free), and is never begun: it gets that error, whose remote_traceback() tells the task that
    //   threw it, or is cancelled, too. To cancel the task cancels none of those that it waits for.
    // - join() waits for tasks that wait; the pool's destructor does so unless it is for what is no
    //   task of this pool, and nothing of the pool will bring that about: then it is cancelled. (A
    //   callback of the pool must not wait for such a one: the destructor waits for the callback.)
    // - Timeouts and retries count from where it begins.
    // - Into a Pool a result goes from worker to worker as bytes, if it is of numbers, texts and
    //   standard containers of these; else it is read and written anew by a thread of this process,
    //   which does that for one task of the pool after the other. If that throws, that is the
    //   task's error. With processes = 0 such a thread runs the task if it had to wait, so the task
    //   must not wait for another one that waits. (The thread is there from the first task on that
    //   has to wait, until join(): StartMethod::fork is refused meanwhile.)
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
    // Of several functions with one name: says so. (The last two shorten the message: to pass such
    // a name to them is an error, too.)
    template <class F = detail::Overloaded, class... Args,
              class = typename detail::RefuseOverloaded<F, Args...>::type>
    void submit(F&& f, Args&&... args) = delete;
    template <class F = detail::Overloaded, class... Args,
              class = typename detail::RefuseOverloaded<F>::type>
    void submit(const TaskOptions& options, F&& f, Args&&... args) = delete;
    void submit() = delete;
    void submit(const TaskOptions& options) = delete;
    detail::Refused submit(...);
    detail::Refused submit(const TaskOptions& options, ...);

    // As submit(), but where that would wait, because so many tasks are not done yet
    // (PoolOptions::max_pending), nothing is submitted, no argument is touched, and there is no
    // future: std::optional<Future<...>>. It never waits: the place is its own from the beginning.
    template <class F, class... Args>
    requires(!std::same_as<std::decay_t<F>, TaskOptions>) auto try_submit(F&& f, Args&&... args) {
        using Submitted = decltype(submit(std::forward<F>(f), std::forward<Args>(args)...));
        const std::shared_ptr<void> place = pool().take_place();
        if (!place) return std::optional<Submitted>();
        return std::optional<Submitted>(submit(std::forward<F>(f), std::forward<Args>(args)...));
    }
    template <class F, class... Args>
    auto try_submit(const TaskOptions& options, F&& f, Args&&... args) {
        using Submitted =
            decltype(submit(options, std::forward<F>(f), std::forward<Args>(args)...));
        const std::shared_ptr<void> place = pool().take_place();
        if (!place) return std::optional<Submitted>();
        return std::optional<Submitted>(
            submit(options, std::forward<F>(f), std::forward<Args>(args)...));
    }

    // submit(f, args...).get()
    template <class F, class... Args>
    auto apply(F&& f, Args&&... args) {
        return submit(std::forward<F>(f), std::forward<Args>(args)...).get();
    }
    template <class F, class... Args>
    auto apply(const TaskOptions& options, F&& f, Args&&... args) {
        return submit(options, std::forward<F>(f), std::forward<Args>(args)...).get();
    }
    // Python's name for submit().
    template <class F, class... Args>
    auto apply_async(F&& f, Args&&... args) {
        return submit(std::forward<F>(f), std::forward<Args>(args)...);
    }
    template <class F, class... Args>
    auto apply_async(const TaskOptions& options, F&& f, Args&&... args) {
        return submit(options, std::forward<F>(f), std::forward<Args>(args)...);
    }

    // f over the items of a range; the results in the order of the items (nothing if f returns
    // void). All items are run; then the error of the first that failed is thrown, if any did: its
    // remote_traceback() says which item that is. MapOptions::fail_fast and deadline end it before
    // that. Items may be listed in the call: map(f, {1, 2, 3}), map(f, {1, 2}, {3, 4}); so can they
    // be in the others, where they are the only range.
    // Items are pulled, and results decoded, in the calling thread.
    template <class F, std::ranges::input_range Range>
    auto map(F&& f, Range&& items, MapOptions options = {}) {
        return collect(imap(std::forward<F>(f), std::forward<Range>(items), options));
    }
    // f(a, b) over several ranges, side by side: as many as the shortest of them has.
    template <class F, std::ranges::input_range A, std::ranges::input_range B>
    auto map(F&& f, A&& a, B&& b, MapOptions options = {}) {
        return map(options, std::forward<F>(f), std::forward<A>(a), std::forward<B>(b));
    }
    template <class F, std::ranges::input_range A, std::ranges::input_range B,
              std::ranges::input_range C>
    auto map(F&& f, A&& a, B&& b, C&& c, MapOptions options = {}) {
        return map(options, std::forward<F>(f), std::forward<A>(a), std::forward<B>(b),
                   std::forward<C>(c));
    }
    // Any number of them, with options first. So can imap, imap_unordered and map_async be called:
    // pool.imap({}, f, a, b).
    template <class F, std::ranges::input_range... Ranges>
    auto map(const MapOptions& options, F&& f, Ranges&&... ranges) {
        return collect(imap(options, std::forward<F>(f), std::forward<Ranges>(ranges)...));
    }
    // The same with f called on the elements of each item, a tuple or pair: f(a, b, ...).
    template <class F, std::ranges::input_range Range>
    auto starmap(F&& f, Range&& items, MapOptions options = {}) {
        return collect(istarmap(std::forward<F>(f), std::forward<Range>(items), options));
    }

    // A stream of results, in the order of the items or as they come; see stream.hpp.
    template <class F, std::ranges::input_range Range>
    auto imap(F&& f, Range&& items, MapOptions options = {}) {
        return pool().template stream<false, false>(std::forward<F>(f), std::forward<Range>(items),
                                                    options);
    }
    template <class F, std::ranges::input_range Range>
    auto imap_unordered(F&& f, Range&& items, MapOptions options = {}) {
        return pool().template stream<false, true>(std::forward<F>(f), std::forward<Range>(items),
                                                   options);
    }
    template <class F, std::ranges::input_range... Ranges>
    auto imap(const MapOptions& options, F&& f, Ranges&&... ranges) {
        return side_by_side<false>(options, std::forward<F>(f), std::forward<Ranges>(ranges)...);
    }
    template <class F, std::ranges::input_range... Ranges>
    auto imap_unordered(const MapOptions& options, F&& f, Ranges&&... ranges) {
        return side_by_side<true>(options, std::forward<F>(f), std::forward<Ranges>(ranges)...);
    }
    // starmap's stream.
    template <class F, std::ranges::input_range Range>
    auto istarmap(F&& f, Range&& items, MapOptions options = {}) {
        constexpr bool fine = detail::check_elements<Range>();
        if constexpr (fine)
            return pool().template stream<true, false>(std::forward<F>(f),
                                                       std::forward<Range>(items), options);
        else
            return detail::Refused();
    }

    // op(op(f(a), f(b)), f(c))..., the results merged where they are made: each chunk's in its
    // worker, and then two and two that lie side by side, as tasks. op is given values in the order
    // of the items, and has to be associative. With init: op(init, all of that), in a worker; init
    // if there are no items. Without: a value-initialised result if there are none. Ends with the
    // first error that is seen, as with fail_fast. It names the item that was at work, as map()'s
    // does (that of a merge names none; a ThreadPool's is the object that was thrown). What
    // MapOptions::task says is of each task here, not of each item: a chunk, or a merge, is timed
    // and run again as a whole. (What runs in a thread then is only asked to stop, and may go on
    // when this has thrown.)
    template <class F, class Op, std::ranges::input_range Range>
    auto map_reduce(F&& f, Op&& op, Range&& items, MapOptions options = {}) {
        using Check = detail::ReduceCheck<Derived::kRunsInThreads, F, Op, Range>;
        Check::check();
        if constexpr (Check::kFine) {
            using R = typename Check::Result;
            static_assert(
                std::is_default_constructible_v<R>,
                "what f returns has no default constructor, so there is no result without "
                "items: say what it is then, map_reduce(f, op, items, init)");
            auto reduced = reduce<R>(f, op, std::forward<Range>(items), nullptr, options);
            return reduced ? std::move(*reduced) : R{};
        } else {
            return detail::Refused();
        }
    }
    template <class F, class Op, std::ranges::input_range Range, class T>
    requires(!std::same_as<std::decay_t<T>, MapOptions>) auto map_reduce(F&& f, Op&& op,
                                                                         Range&& items, T&& init,
                                                                         MapOptions options = {}) {
        using Check = detail::ReduceCheck<Derived::kRunsInThreads, F, Op, Range>;
        Check::check();
        if constexpr (Check::kFine) {
            using R = typename Check::Result;
            R first(std::forward<T>(init));
            return *reduce<R>(f, op, std::forward<Range>(items), &first, options);
        } else {
            return detail::Refused();
        }
    }

    // The place in the input of an item for which is_it(item) is true: the first that is found.
    // Then what runs is stopped, and what waits taken back. Nothing: there is none. Throws what
    // is_it() threw for the first of the items for which it did, if it was true for none. (What
    // runs in a thread is only asked to stop, and may go on when this has returned.)
    template <class F, std::ranges::input_range Range>
    std::optional<std::size_t> find_any(F&& is_it, Range&& items, MapOptions options = {}) {
        auto answers = imap_unordered(std::forward<F>(is_it), std::forward<Range>(items), options);
        std::shared_ptr<void> held = pool().hold();
        std::exception_ptr error;
        std::size_t failed = 0;
        while (auto answer = answers.next_outcome()) {
            if (answer->has_value()) {
                if (!answer->value()) continue;
                answers.cancel();
                return answer->index();
            }
            if (error && failed < answer->index()) continue;
            error = answer->error();
            failed = answer->index();
        }
        if (error) std::rethrow_exception(error);
        return {};
    }

    // map and starmap without waiting: the future has the std::vector of results. The items are
    // copied, or moved if they are a temporary. (A thread of this process feeds the workers.)
    // cancel() of the future ends the map: what runs is stopped, what waits is taken back. (Where
    // it runs in threads, it is only asked to stop, and join() waits for that.)
    template <class F, std::ranges::input_range Range>
    auto map_async(F&& f, Range&& items, MapOptions options = {}) {
        return in_background<false>(std::forward<F>(f), std::forward<Range>(items), options);
    }
    template <class F, std::ranges::input_range... Ranges>
    auto map_async(const MapOptions& options, F&& f, Ranges&&... ranges) {
        if constexpr (sizeof...(Ranges) == 1)
            return in_background<false>(std::forward<F>(f), std::forward<Ranges>(ranges)...,
                                        options);
        else
            return in_background<true>(
                std::forward<F>(f),
                detail::zipped(std::decay_t<Ranges>(std::forward<Ranges>(ranges))...), options);
    }
    template <class F, std::ranges::input_range Range>
    auto starmap_async(F&& f, Range&& items, MapOptions options = {}) {
        constexpr bool fine = detail::check_elements<Range>();
        if constexpr (fine)
            return in_background<true>(std::forward<F>(f), std::forward<Range>(items), options);
        else
            return detail::Refused();
    }

  protected:
    PoolFace() = default;
    ~PoolFace() = default;

  private:
    Derived& pool() { return static_cast<Derived&>(*this); }
    template <bool kUnordered, class F, class... Ranges>
    auto side_by_side(const MapOptions& options, F&& f, Ranges&&... ranges) {
        static_assert(sizeof...(Ranges) > 0, "a map needs something to run over");
        if constexpr (sizeof...(Ranges) == 1)
            return pool().template stream<false, kUnordered>(
                std::forward<F>(f), std::forward<Ranges>(ranges)..., options);
        else
            return pool().template stream<true, kUnordered>(
                std::forward<F>(f), detail::zipped(std::forward<Ranges>(ranges)...), options);
    }
    template <class R, class F, class Op, class Range>
    std::optional<R> reduce(const F& f, const Op& op, Range&& items, R* init,
                            const MapOptions& options) {
        detail::check_map_options(options);
        pool().check_open();
        std::shared_ptr<void> held = pool().hold();
        detail::MapReduce<R, std::decay_t<F>, std::decay_t<Op>, Range> reduction(
            f, op, std::forward<Range>(items), options,
            {pool().processes(), Derived::kRunsInThreads});
        if (init) reduction.begin_with(std::move(*init));
        return reduction.run([this](const TaskOptions* its, auto callable, auto... arguments) {
            return pool().submit_part(its, std::move(callable), std::move(arguments)...);
        });
    }
    template <class S>
    static auto collect(S results) {
        return std::move(results).collect();
    }
    template <bool kSpread, class F, class Range>
    auto in_background(F&& f, Range&& items, const MapOptions& options) {
        using S = decltype(pool().template stream<kSpread, false>(
            std::forward<F>(f), std::declval<std::decay_t<Range>>(), options));
        using Results = decltype(std::declval<S>().collect());
        auto results = std::make_shared<S>(pool().template stream<kSpread, false>(
            std::forward<F>(f), std::decay_t<Range>(std::forward<Range>(items)), options));
        auto promise = std::make_shared<Promise<Results>>();
        Future<Results> future = promise->future();
        static_cast<detail::LocalTaskBase&>(*future.state()).end_with(results->detach());
        pool().run_in_background([results, promise] {
            detail::fulfil(*promise, [&] { return std::move(*results).collect(); });
        });
        return future;
    }
};

}  // namespace sidestep
