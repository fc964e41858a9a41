// What a pool's functions say of options that belong to another one of them, or stand in the wrong
// place: in braces they have no type, so the compiler would only say that nothing matches.
// Internal.
#pragma once

#include <concepts>
#include <type_traits>

#include <sidestep/detail/checks.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/task_options.hpp>

namespace sidestep::inline v0::detail {

// The type of a parameter that is called with braces is the default of its template parameter, here
// what the braces have fields of. Options that are right are a parameter without a template, which
// is more specialised: so these are called by what is wrong only.
template <class T>
concept IsTaskOptions = std::same_as<T, TaskOptions>;
template <class T>
concept IsMapOptions = std::same_as<T, MapOptions>;

template <class T>
constexpr void refuse_task_options() {
    static_assert(
        !IsTaskOptions<T>,
        "a map has MapOptions. What is for each item goes into their `task`: map(f, items, "
        "{.task = {.timeout = 1s}}); the time of the whole map is their `deadline`");
}

// Of those the one argument that comes first is options, else the last one.
class RefusesOptions {
  public:
    template <IsMapOptions T = MapOptions, class F, class... Args>
    Refused submit(const T&, F&&, Args&&...) {
        static_assert(!IsMapOptions<T>,
                      "submit() has TaskOptions: chunksize, window, fail_fast and deadline are a "
                      "map's. The time of a task is its `timeout`");
        return {};
    }
    template <class F, IsTaskOptions T = TaskOptions>
    requires(!std::invocable<F&, T>) Refused submit(F&&, T) { return refuse_last<T>(); }
    template <class F, class A, IsTaskOptions T = TaskOptions>
    requires(!std::invocable<F&, A, T>) Refused submit(F&&, A&&, T) { return refuse_last<T>(); }
    template <class F, class A, class B, IsTaskOptions T = TaskOptions>
    requires(!std::invocable<F&, A, B, T>) Refused submit(F&&, A&&, B&&, T) {
        return refuse_last<T>();
    }

    template <class F, class Range, IsTaskOptions T = TaskOptions>
    Refused map(F&&, Range&&, T) {
        return refuse<T>();
    }
    template <class F, class Range, std::integral T>
    Refused map(F&&, Range&&, T) {
        return refuse_number<T>();
    }
    template <class F, class A, class B, IsTaskOptions T = TaskOptions>
    Refused map(F&&, A&&, B&&, T) {
        return refuse<T>();
    }
    template <IsTaskOptions T = TaskOptions, class F, class... Ranges>
    Refused map(const T&, F&&, Ranges&&...) {
        return refuse<T>();
    }
    template <class F, class Range, IsTaskOptions T = TaskOptions>
    Refused starmap(F&&, Range&&, T) {
        return refuse<T>();
    }
    template <class F, class Range, std::integral T>
    Refused starmap(F&&, Range&&, T) {
        return refuse_number<T>();
    }
    template <class F, class Range, IsTaskOptions T = TaskOptions>
    Refused imap(F&&, Range&&, T) {
        return refuse<T>();
    }
    template <class F, class Range, std::integral T>
    Refused imap(F&&, Range&&, T) {
        return refuse_number<T>();
    }
    template <IsTaskOptions T = TaskOptions, class F, class... Ranges>
    Refused imap(const T&, F&&, Ranges&&...) {
        return refuse<T>();
    }
    template <class F, class Range, IsTaskOptions T = TaskOptions>
    Refused imap_unordered(F&&, Range&&, T) {
        return refuse<T>();
    }
    template <class F, class Range, std::integral T>
    Refused imap_unordered(F&&, Range&&, T) {
        return refuse_number<T>();
    }
    template <IsTaskOptions T = TaskOptions, class F, class... Ranges>
    Refused imap_unordered(const T&, F&&, Ranges&&...) {
        return refuse<T>();
    }
    template <class F, class Range, IsTaskOptions T = TaskOptions>
    Refused istarmap(F&&, Range&&, T) {
        return refuse<T>();
    }
    template <class F, class Range, std::integral T>
    Refused istarmap(F&&, Range&&, T) {
        return refuse_number<T>();
    }
    template <class F, class Range, IsTaskOptions T = TaskOptions>
    Refused map_async(F&&, Range&&, T) {
        return refuse<T>();
    }
    template <class F, class Range, std::integral T>
    Refused map_async(F&&, Range&&, T) {
        return refuse_number<T>();
    }
    template <IsTaskOptions T = TaskOptions, class F, class... Ranges>
    Refused map_async(const T&, F&&, Ranges&&...) {
        return refuse<T>();
    }
    template <class F, class Range, IsTaskOptions T = TaskOptions>
    Refused starmap_async(F&&, Range&&, T) {
        return refuse<T>();
    }
    template <class F, class Range, std::integral T>
    Refused starmap_async(F&&, Range&&, T) {
        return refuse_number<T>();
    }
    template <class F, class Op, class Range, IsTaskOptions T = TaskOptions>
    Refused map_reduce(F&&, Op&&, Range&&, T) {
        return refuse<T>();
    }
    template <class F, class Range, IsTaskOptions T = TaskOptions>
    Refused find_any(F&&, Range&&, T) {
        return refuse<T>();
    }

  private:
    template <class T>
    static Refused refuse() {
        refuse_task_options<T>();
        return {};
    }
    template <class T>
    static Refused refuse_number() {
        static_assert(!std::integral<T>,
                      "a number is no option of a map, nor a range: say what it is, as in "
                      "map(f, items, {.chunksize = 10})");
        return {};
    }
    template <class T>
    static Refused refuse_last() {
        static_assert(!IsTaskOptions<T>,
                      "a task's options come first: submit({.timeout = 1s}, f, x). An argument in "
                      "braces needs its type: submit(f, Point{1, 2})");
        return {};
    }
};

}  // namespace sidestep::detail
