// As what arguments and items are kept until they are used: task.hpp says what becomes of a view or
// a char pointer. Internal.
#pragma once

#include <cstddef>
#include <functional>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <utility>

#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

// A value as a T: itself, or converted, also where the conversion is explicit.
template <class T, class From>
decltype(auto) stored_as(const From& from) {
    if constexpr (std::is_convertible_v<const From*, const T*>)
        return static_cast<const T&>(from);
    else
        return static_cast<T>(from);
}

// An item of a range. With kSpread its elements are arguments.
template <bool kSpread, class T>
struct ItemAs {
    using type = Stored<T>;
};
template <class... Ts>
struct ItemAs<true, std::tuple<Ts...>> {
    using type = std::tuple<Stored<Ts>...>;
};
template <class A, class B>
struct ItemAs<true, std::pair<A, B>> {
    using type = std::pair<Stored<A>, Stored<B>>;
};
template <bool kSpread, class T>
using StoredItem = typename ItemAs<kSpread, std::remove_cvref_t<T>>::type;

// Whether f can be a map's: looked at before anything of the map is compiled. Of a starmap, with
// the elements of its tuples.
template <bool kSpread, class F, class Item>
struct MapCheckOf {
    using type = TaskCheck<F, Item>;
};
template <class F, class Item>
struct MapCheckOf<true, F, Item> {
    template <std::size_t... i>
    static TaskCheck<F, std::tuple_element_t<i, Item>...> check(std::index_sequence<i...>);
    using type = decltype(check(std::make_index_sequence<std::tuple_size_v<Item>>()));
};
template <bool kSpread, class F, class Range>
using MapCheck = typename MapCheckOf<
    kSpread, F,
    StoredItem<kSpread, std::ranges::range_value_t<std::remove_reference_t<Range>>>>::type;

// --- for calls in threads, where nothing has to travel -------------------------------------------

// Whether f can be called with what travels in place of its arguments. Then it is: what it refers
// to may be gone when a thread comes to it, and a Pool would do so too.
template <class F, class... Args>
constexpr bool takes_stored() {
    if constexpr ((std::is_same_v<Stored<Args>, std::decay_t<Args>> && ...))
        return true;
    else
        return std::is_invocable_v<F&, Stored<Args>&&...>;
}
template <class F, class Arg, class... Args>
using KeptArgument = std::conditional_t<takes_stored<F, Args...>(), Stored<Arg>, std::decay_t<Arg>>;

template <bool kSpread, class F, class T>
struct ItemKept {
    using type = KeptArgument<F, T, T>;
};
template <class F, class... Ts>
struct ItemKept<true, F, std::tuple<Ts...>> {
    using type = std::tuple<KeptArgument<F, Ts, Ts...>...>;
};
template <class F, class A, class B>
struct ItemKept<true, F, std::pair<A, B>> {
    using type = std::pair<KeptArgument<F, A, A, B>, KeptArgument<F, B, A, B>>;
};
template <bool kSpread, class F, class T>
using KeptItem = typename ItemKept<kSpread, F, std::remove_cvref_t<T>>::type;

}  // namespace sidestep::detail
