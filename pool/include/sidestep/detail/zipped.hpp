// Several ranges as one of tuples, as long as the shortest of them: what map(f, a, b) runs over.
// Internal. (std::views::zip is of C++23.)
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <utility>

#include <sidestep/future.hpp>
#include <sidestep/outcome.hpp>

namespace sidestep::inline v0::detail {

// Ranges: a reference for each that was passed as an lvalue, else the range's type. To be passed
// through once. An item is copied; if it cannot be, it is moved out of a container that was moved
// in.
template <class... Ranges>
class Zipped {
    template <class Range>
    using Plain = std::remove_reference_t<Range>;
    template <class Range>
    using Value = std::ranges::range_value_t<Plain<Range>>;
    using All = std::index_sequence_for<Ranges...>;

  public:
    explicit Zipped(Ranges&&... ranges) : ranges_(std::forward<Ranges>(ranges)...) {}

    class Iterator {
      public:
        using value_type = std::tuple<Value<Ranges>...>;
        using difference_type = std::ptrdiff_t;

        explicit Iterator(Zipped& outer)
            : outer_(&outer),
              at_(std::apply(
                  [](auto&... held) { return Positions(std::ranges::begin(held.get())...); },
                  outer.ranges_)) {}
        value_type operator*() const { return items(All()); }
        Iterator& operator++() {
            std::apply([](auto&... at) { (++at, ...); }, at_);
            return *this;
        }
        void operator++(int) { ++*this; }
        bool operator==(std::default_sentinel_t) const { return is_over(All()); }

      private:
        using Positions = std::tuple<std::ranges::iterator_t<Plain<Ranges>>...>;

        template <std::size_t... i>
        value_type items(std::index_sequence<i...>) const {
            return value_type(item<Ranges>(std::get<i>(at_))...);
        }
        template <class Range, class Position>
        static Value<Range> item(Position& at) {
            constexpr bool kOwned = !std::is_reference_v<Range> && !std::ranges::view<Range>;
            if constexpr (kOwned && !kCopies<Value<Range>>)
                return std::move(*at);
            else
                return static_cast<Value<Range>>(*at);
        }
        template <std::size_t... i>
        bool is_over(std::index_sequence<i...>) const {
            return ((std::get<i>(at_) == std::ranges::end(std::get<i>(outer_->ranges_).get())) ||
                    ...);
        }

        Zipped* outer_;
        Positions at_;
    };
    Iterator begin() { return Iterator(*this); }
    std::default_sentinel_t end() const { return {}; }
    // No more than that; what has no size may be longer.
    std::size_t size() requires(std::ranges::sized_range<Plain<Ranges>> || ...) {
        return std::apply([](auto&... held) { return std::min({size_of(held.get())...}); },
                          ranges_);
    }

  private:
    template <class Range>
    static std::size_t size_of(Range& range) {
        if constexpr (std::ranges::sized_range<Range>)
            return static_cast<std::size_t>(std::ranges::size(range));
        else
            return ~std::size_t(0);
    }

    std::tuple<HeldRange<Ranges>...> ranges_;
};

template <class... Ranges>
inline constexpr bool kGivesAtOnce<Zipped<Ranges...>> =
    (kGivesAtOnce<std::remove_reference_t<Ranges>> && ...);

template <class... Ranges>
Zipped<Ranges...> zipped(Ranges&&... ranges) {
    return Zipped<Ranges...>(std::forward<Ranges>(ranges)...);
}

}  // namespace sidestep::detail
