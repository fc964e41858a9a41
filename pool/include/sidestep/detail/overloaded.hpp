// What a pool's functions say of the name of several functions, or of a function template: no
// template can tell which of them is meant, so the compiler would only say that nothing matches.
// (submit() says so by itself: see pool_face.hpp.) Internal.
#pragma once

#include <concepts>
#include <initializer_list>
#include <ranges>
#include <type_traits>

#include <sidestep/detail/checks.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/task_options.hpp>

namespace sidestep::inline v0::detail {

// The type of a callable that could not be found out: for such a name it stays the default of its
// template parameter. So it does for options in braces, behind which no range comes. It is made
// from anything, so that a function that takes it is called, and the compiler has no more to say
// than that it cannot tell either.
struct OverloadedName {
    OverloadedName(...);
};

template <class F>
concept IsName = std::same_as<F, OverloadedName>;

// In a default template argument, which is there before constraints are looked at.
template <class F, class Items>
constexpr bool refuse_name() {
    static_assert(!IsName<F> || !std::ranges::input_range<Items>,
                  "this is the name of several functions, or of a template: say which one is "
                  "meant, by a lambda around it: map([](int x) { return f(x); }, items)");
    return true;
}
// Behind options in braces, which have no type either, comes a callable.
template <class T, class... Args>
concept MayBeCalled = std::is_member_pointer_v<T> || std::is_function_v<std::remove_pointer_t<T>> ||
    std::is_empty_v<T> || std::invocable<T&, Args...> || requires {
    &T::operator();
};
template <class... Args>
inline constexpr bool kBeginsWithCallable = false;
template <class F, class... Args>
inline constexpr bool kBeginsWithCallable<F, Args...> = MayBeCalled<std::decay_t<F>, Args...>;

template <class F, class... Args>
constexpr bool refuse_name_called() {
    static_assert(!IsName<F> || kBeginsWithCallable<Args...>,
                  "this is the name of several functions, or of a template: say which one is "
                  "meant, by a lambda around it: apply([](int x) { return f(x); }, x). Or an "
                  "argument is in braces, and needs its type: apply(f, Point{1, 2})");
    return true;
}

// None of these is ever called: what takes a name has failed to compile before. Each differs in the
// types of its parameters from the one that is meant: clang++ 14 takes it for that one otherwise.
class RefusesNames {
  public:
    template <IsName F = OverloadedName, class Items, class... More, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused map(const F&, Items&&, More&&...);
    template <IsName F = OverloadedName, class Items, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused map(const F&, Items&&, MapOptions);
    template <IsName F = OverloadedName, class T, bool = refuse_name<F, std::initializer_list<T>>()>
    Refused map(const F&, std::initializer_list<T>, MapOptions = {});
    template <IsName F = OverloadedName, class Items, class... More, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused map(const MapOptions&, const F&, Items&&,
                                                         More&&...);
    template <IsName F = OverloadedName, class Items, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused starmap(const F&, Items&&, MapOptions = {});

    template <IsName F = OverloadedName, class Items, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused imap(const F&, Items&&, MapOptions = {});
    template <IsName F = OverloadedName, class Items, class... More, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused imap(const MapOptions&, const F&, Items&&,
                                                          More&&...);
    template <IsName F = OverloadedName, class Items, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused imap_unordered(const F&, Items&&,
                                                                    MapOptions = {});
    template <IsName F = OverloadedName, class Items, class... More, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused imap_unordered(const MapOptions&, const F&,
                                                                    Items&&, More&&...);
    template <IsName F = OverloadedName, class Items, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused istarmap(const F&, Items&&, MapOptions = {});

    template <IsName F = OverloadedName, class Items, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused map_async(const F&, Items&&, MapOptions = {});
    template <IsName F = OverloadedName, class Items, class... More, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused map_async(const MapOptions&, const F&, Items&&,
                                                               More&&...);
    template <IsName F = OverloadedName, class Items, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused starmap_async(const F&, Items&&,
                                                                   MapOptions = {});

    template <IsName F = OverloadedName, class Op, class Items, class... More,
              bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused map_reduce(const F&, Op&&, Items&&, More&&...);
    template <class F, IsName Op = OverloadedName, class Items, class... More,
              bool = refuse_name<Op, Items>()>
    requires std::ranges::input_range<Items> Refused map_reduce(F&&, const Op&, Items&&, More&&...);
    template <IsName F = OverloadedName, class Items, bool = refuse_name<F, Items>()>
    requires std::ranges::input_range<Items> Refused find_any(const F&, Items&&, MapOptions = {});

    template <IsName F = OverloadedName, class... Args, bool = refuse_name_called<F, Args...>()>
    Refused apply(const F&, Args&&...);
    template <IsName F = OverloadedName, class... Args, bool = refuse_name_called<F, Args...>()>
    Refused apply_async(const F&, Args&&...);
    template <IsName F = OverloadedName, class... Args, bool = refuse_name_called<F>()>
    Refused try_submit(const TaskOptions&, const F&, Args&&...);
};

}  // namespace sidestep::detail
