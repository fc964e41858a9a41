// What cannot travel, and the sentence that says so when it is compiled. A part of
// <sidestep/task.hpp>. Internal.
//
// Whoever is refused is compiled no further: one mistake, one error. So a check comes first, and
// what is behind it in `if constexpr` of the same condition.
#pragma once

#include <array>
#include <deque>
#include <forward_list>
#include <functional>
#include <list>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include <sidestep/archive.hpp>

namespace sidestep::inline v0::detail {

// --- what travels --------------------------------------------------------------------------------

// What has to travel so that a standard container can. (cereal asks that only when it is too late.)
template <class... T>
struct Parts {};
template <class T>
struct PartsOf {
    using type = Parts<>;
};
template <class T>
struct OneKind {
    using type = Parts<T>;
};
template <class T, class A>
struct PartsOf<std::vector<T, A>> : OneKind<T> {};
template <class T, class A>
struct PartsOf<std::deque<T, A>> : OneKind<T> {};
template <class T, class A>
struct PartsOf<std::list<T, A>> : OneKind<T> {};
template <class T, class A>
struct PartsOf<std::forward_list<T, A>> : OneKind<T> {};
template <class T, class C, class A>
struct PartsOf<std::set<T, C, A>> : OneKind<T> {};
template <class T, class C, class A>
struct PartsOf<std::multiset<T, C, A>> : OneKind<T> {};
template <class T, class H, class E, class A>
struct PartsOf<std::unordered_set<T, H, E, A>> : OneKind<T> {};
template <class T>
struct PartsOf<std::optional<T>> : OneKind<T> {};
template <class T, std::size_t n>
struct PartsOf<std::array<T, n>> : OneKind<T> {};
template <class K, class T, class C, class A>
struct PartsOf<std::map<K, T, C, A>> {
    using type = Parts<K, T>;
};
template <class K, class T, class C, class A>
struct PartsOf<std::multimap<K, T, C, A>> {
    using type = Parts<K, T>;
};
template <class K, class T, class H, class E, class A>
struct PartsOf<std::unordered_map<K, T, H, E, A>> {
    using type = Parts<K, T>;
};
template <class A, class B>
struct PartsOf<std::pair<A, B>> {
    using type = Parts<std::remove_const_t<A>, std::remove_const_t<B>>;
};
template <class... T>
struct PartsOf<std::tuple<T...>> {
    using type = Parts<T...>;
};
template <class... T>
struct PartsOf<std::variant<T...>> {
    using type = Parts<T...>;
};

template <class T>
constexpr bool travels();
template <class... T>
constexpr bool all_travel(Parts<T...>) {
    return (travels<T>() && ...);
}
template <class T>
constexpr bool travels() {
    if constexpr (std::is_pointer_v<T>)  // cereal says yes, only to stop the compiler later
        return false;
    else if constexpr (!all_travel(typename PartsOf<T>::type{}))
        return false;
    else
        return cereal::traits::is_output_serializable<T, OutputArchive>::value &&
               cereal::traits::is_input_serializable<T, InputArchive>::value;
}
template <class T>
concept Travels = travels<T>();

template <class T>
inline constexpr bool kCanBeRead =
    std::is_default_constructible_v<T> || std::is_constructible_v<T, Blank>;

// --- why not -------------------------------------------------------------------------------------

// The part that is to blame, as far inside as it is found.
template <class T, class List = typename PartsOf<T>::type>
struct Culprit {
    using type = T;
};
template <class T, class First, class... Rest>
struct Culprit<T, Parts<First, Rest...>> {
    using type = typename std::conditional_t<travels<First>(), Culprit<T, Parts<Rest...>>,
                                             Culprit<First>>::type;
};

template <class T>
inline constexpr bool is_view = false;
template <class C, class Traits>
inline constexpr bool is_view<std::basic_string_view<C, Traits>> = true;
template <class T, std::size_t n>
inline constexpr bool is_view<std::span<T, n>> = true;

template <class T>
inline constexpr bool is_pointer = std::is_pointer_v<T>;
template <class T>
inline constexpr bool is_pointer<std::reference_wrapper<T>> = true;

template <class T>
inline constexpr bool is_std_function = false;
template <class T>
inline constexpr bool is_std_function<std::function<T>> = true;

// Whether a class has a member of this name, be it private: else it would not be ambiguous.
struct HasSerialize {
    int serialize;
};
template <class T>
struct WithSerialize : T, HasSerialize {};
template <class T>
constexpr bool names_serialize() {
    if constexpr (std::is_class_v<T> && !std::is_final_v<T>) return !requires {
            &WithSerialize<T>::serialize;
        };
    else
        return false;
}

// Why something cannot be sent; one reason, the first.
enum class Why {
    fine,
    refused,  // it was said before
    captures,
    function_object,
    pointer,
    view,
    stays_here,
    closed,
    no_serialize,
    not_read,
    not_called,
    coroutine,
    result_not_read,
    names_code
};
template <class T>
constexpr Why why_not_sent() {
    using Part = typename Culprit<T>::type;
    if constexpr (travels<T>()) return Why::fine;
    if constexpr (is_pointer<Part>) return Why::pointer;
    if constexpr (is_view<Part>) return Why::view;
    if constexpr (is_std_function<Part>) return Why::function_object;
    if constexpr (stays_here<Part>) return Why::stays_here;
    return names_serialize<Part>() ? Why::closed : Why::no_serialize;
}
// It is about a type that is sent, or a part of one: see Culprit.
constexpr bool is_about_sent(Why why) {
    return why == Why::pointer || why == Why::view || why == Why::function_object ||
           why == Why::stays_here || why == Why::closed || why == Why::no_serialize;
}

// check() turns a page of template errors into one sentence; kFine is the condition for what comes
// after. All sentences are here, since the compiler's list grows with each template on the way.
template <Why why, class... What>
struct Check {
    static constexpr bool kFine = why == Why::fine;
    static constexpr void check() {
        static_assert(
            why != Why::captures,
            "this callable cannot be sent to another process. A lambda with captures cannot: "
            "(1) pass what it captures as arguments, (2) use sidestep::bind(f, args...), or "
            "(3) write a functor with a `serialize` member and a default constructor");
        static_assert(
            why != Why::function_object,
            "a std::function cannot travel: nobody knows what it holds. Pass a function, a "
            "lambda without captures, or sidestep::bind(f, args...)");
        static_assert(
            why != Why::pointer,
            "pointers cannot travel, nor std::ref: the other process has memory of its own. "
            "Pass the value, or a unique_ptr or shared_ptr to it, or Shared, SharedMemory");
        static_assert(
            why != Why::view,
            "a view (string_view, span) inside of something cannot travel: it points into "
            "the memory of this process. Use std::string or std::vector");
        static_assert(
            why != Why::stays_here,
            "a pool, a future or a process stays in the process that made it: pass what is "
            "wanted of it, such as future.get(). Queues, locks and events travel");
        static_assert(
            why != Why::closed,
            "its `serialize` cannot be called: make it public (or cereal::access a friend), "
            "and a template of the archive");
        static_assert(
            why != Why::no_serialize,
            "a type that is sent cannot be serialized: give it a cereal `serialize` member, "
            "or include the cereal header of a standard type. TheTypeIs<...> says which");
        static_assert(
            why != Why::not_read,
            "an argument's type needs a default constructor, so that it can be read back");
        static_assert(
            why != Why::not_called,
            "the callable cannot be called with these arguments: they arrive as temporaries "
            "(parameters by value, const& or &&; const char* arrives as std::string), those of "
            "bind() as const&, and a member function takes its object first");
        static_assert(
            why != Why::coroutine,
            "a coroutine cannot be a task: what it returns stays in the process that called "
            "it. Run it there to its end, and return the value");
        static_assert(why != Why::result_not_read,
                      "the result's type needs a default constructor, so that it can be read back");
        static_assert(why != Why::names_code,
                      "a result cannot carry function pointers: whoever wrote it could name any "
                      "function. Return data, or bind() a captureless lambda or a functor instead");
    }
};
// Among what the compiler says of a check: which of the call's types is to blame, or what in it.
template <class T>
struct TheTypeIs {};
template <class... T>
struct FirstUnsent;
template <class T, class... Rest>
struct FirstUnsent<T, Rest...>
    : std::conditional_t<travels<T>(), FirstUnsent<Rest...>, Culprit<T>> {};
template <class... T>
struct FirstUnread;
template <class T, class... Rest>
struct FirstUnread<T, Rest...>
    : std::conditional_t<kCanBeRead<T>, FirstUnread<Rest...>, std::type_identity<T>> {};

// What a refused call returns: whatever is done with it is no second error.
struct Refused {
    template <class T>
    operator T() const;
    Refused get() const { return {}; }
    Refused collect() const { return {}; }
    const Refused* begin() const { return nullptr; }
    const Refused* end() const { return nullptr; }
};

}  // namespace sidestep::detail
