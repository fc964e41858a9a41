// Maps over items that are listed in the call: map(f, {1, 2, 3}). Internal.
//
// Items in braces are no range whose type could be found out, so each of these takes a list, and
// calls the function of that name with a container. As a map's second range they would be taken for
// options: {3, 4} are a chunksize and a window.
#pragma once

#include <concepts>
#include <initializer_list>
#include <ranges>
#include <type_traits>
#include <utility>
#include <vector>

#include <sidestep/pool_options.hpp>

namespace sidestep::inline v0::detail {

// Face: has the functions for ranges.
template <class Face>
class TakesLists {
  public:
    template <class F, class T>
    auto map(F&& f, std::initializer_list<T> items, MapOptions options = {}) {
        return face().map(std::forward<F>(f), std::vector<T>(items), options);
    }
    template <class F, class T>
    auto map(const MapOptions& options, F&& f, std::initializer_list<T> items) {
        return face().map(options, std::forward<F>(f), std::vector<T>(items));
    }
    template <class F, class A, class B>
    auto map(F&& f, std::initializer_list<A> a, std::initializer_list<B> b,
             MapOptions options = {}) {
        return face().map(std::forward<F>(f), std::vector<A>(a), std::vector<B>(b), options);
    }
    template <class F, std::ranges::input_range A, class B>
    auto map(F&& f, A&& a, std::initializer_list<B> b, MapOptions options = {}) {
        return face().map(std::forward<F>(f), std::forward<A>(a), std::vector<B>(b), options);
    }
    template <class F, class T>
    auto starmap(F&& f, std::initializer_list<T> items, MapOptions options = {}) {
        return face().starmap(std::forward<F>(f), std::vector<T>(items), options);
    }
    template <class F, class T>
    auto imap(F&& f, std::initializer_list<T> items, MapOptions options = {}) {
        return face().imap(std::forward<F>(f), std::vector<T>(items), options);
    }
    template <class F, class T>
    auto imap_unordered(F&& f, std::initializer_list<T> items, MapOptions options = {}) {
        return face().imap_unordered(std::forward<F>(f), std::vector<T>(items), options);
    }
    template <class F, class T>
    auto istarmap(F&& f, std::initializer_list<T> items, MapOptions options = {}) {
        return face().istarmap(std::forward<F>(f), std::vector<T>(items), options);
    }
    template <class F, class T>
    auto map_async(F&& f, std::initializer_list<T> items, MapOptions options = {}) {
        return face().map_async(std::forward<F>(f), std::vector<T>(items), options);
    }
    template <class F, class T>
    auto starmap_async(F&& f, std::initializer_list<T> items, MapOptions options = {}) {
        return face().starmap_async(std::forward<F>(f), std::vector<T>(items), options);
    }
    template <class F, class Op, class T>
    auto map_reduce(F&& f, Op&& op, std::initializer_list<T> items, MapOptions options = {}) {
        return face().map_reduce(std::forward<F>(f), std::forward<Op>(op), std::vector<T>(items),
                                 options);
    }
    template <class F, class Op, class T, class Init>
    requires(!std::same_as<std::decay_t<Init>, MapOptions>) auto map_reduce(
        F&& f, Op&& op, std::initializer_list<T> items, Init&& init, MapOptions options = {}) {
        return face().map_reduce(std::forward<F>(f), std::forward<Op>(op), std::vector<T>(items),
                                 std::forward<Init>(init), options);
    }
    template <class F, class T>
    auto find_any(F&& is_it, std::initializer_list<T> items, MapOptions options = {}) {
        return face().find_any(std::forward<F>(is_it), std::vector<T>(items), options);
    }

  private:
    Face& face() { return static_cast<Face&>(*this); }
};

}  // namespace sidestep::detail
