// What streams have in common, whoever runs their items: outcomes, iteration, the pulled input.
//
// Threads: one thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <exception>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <sidestep/detail/deadline.hpp>
#include <sidestep/detail/input_thread.hpp>

namespace sidestep::inline v0 {

// What became of one item: its place in the input, and a value or an error.
template <class T>
class Outcome {
  public:
    using Value = std::conditional_t<std::is_void_v<T>, std::monostate, T>;

    Outcome(std::size_t index, Value value) : index_(index), value_(std::move(value)) {}
    Outcome(std::size_t index, std::exception_ptr error)
        : index_(index), error_(std::move(error)) {}

    std::size_t index() const { return index_; }
    bool has_value() const { return !error_; }
    explicit operator bool() const { return !error_; }
    // The value, or throws the error.
    Value& value() {
        if (error_) std::rethrow_exception(error_);
        return *value_;
    }
    const Value& value() const {
        if (error_) std::rethrow_exception(error_);
        return *value_;
    }
    const std::exception_ptr& error() const { return error_; }

  private:
    std::size_t index_;
    std::optional<Value> value_;
    std::exception_ptr error_;
};

template <class S>
class OutcomeStream;

namespace detail {

// Throws the error with which a map ends; if it was cancelled, that says how many of its items were
// done. items: 0 if it is not known.
[[noreturn]] void rethrow_of_map(const std::exception_ptr& error, std::size_t done,
                                 std::size_t items);

// A range that was passed: an lvalue is referred to, anything else is moved in. (What views::all
// does; clang 14 cannot compile that one of libstdc++ 12.)
template <class Range>
class HeldRange {
  public:
    explicit HeldRange(Range&& range) : range_(std::forward<Range>(range)) {}
    Range& get() { return range_; }

  private:
    Range range_;
};
template <class Range>
class HeldRange<Range&> {
  public:
    explicit HeldRange(Range& range) : range_(&range) {}
    Range& get() { return *range_; }

  private:
    Range* range_;
};

template <class Plain>
inline constexpr bool kLiesInMemory = std::ranges::contiguous_range<Plain>&&
    std::sized_sentinel_for<std::ranges::sentinel_t<Plain>, std::ranges::iterator_t<Plain>>;
// An iota_view, which not every library has: it is all in its iterators, as nothing else is that
// makes numbers.
template <class Plain>
inline constexpr bool kIsIota = std::ranges::enable_borrowed_range<std::remove_cv_t<Plain>>&&
    std::is_integral_v<std::ranges::range_reference_t<Plain>>;
// To get an item takes no time.
template <class Plain>
inline constexpr bool kGivesAtOnce = kLiesInMemory<Plain> || kIsIota<Plain> ||
                                     (std::ranges::forward_range<Plain> &&
                                      !std::ranges::view<Plain>);

// A range whose items are taken one by one; and what is added to it meanwhile.
template <class Range>
class Input {
    using Plain = std::remove_reference_t<Range>;
    using Reference = std::ranges::range_reference_t<Plain>;

  public:
    using Item = std::ranges::range_value_t<Plain>;

  private:
    // A reference stays good when the range is advanced.
    static constexpr bool kRefers =
        std::is_lvalue_reference_v<Reference> && std::ranges::forward_range<Plain>;
    static constexpr bool kCanBeKept =
        kRefers || (std::is_constructible_v<Item, Reference> && std::is_move_constructible_v<Item>);

  public:
    static constexpr bool kIsContiguous = kLiesInMemory<Plain>;
    // To get an item may take time, as it may not with a container.
    static constexpr bool kMayBlock = !kGivesAtOnce<Plain> && kCanBeKept;
    using Taken = std::conditional_t<kMayBlock && !kRefers, Item, Reference>;

    // An item can be added: it can stand for one of the range's.
    static constexpr bool kGrows =
        std::is_move_constructible_v<Item> && std::is_constructible_v<Taken, Item&>;

    explicit Input(Range&& range) : range_(std::forward<Range>(range)) {}

    // How many items can be taken now; with kMayBlock, a thread pulls them from now on (for which
    // this object must stay where it is). `most`: there are as many, or the end is known. Waits for
    // a pause of the input, but for an item if there is nothing else to do.
    std::size_t await(std::size_t most, bool nothing_else) {
        if constexpr (kMayBlock) {
            if (!ahead_) ahead_ = std::make_unique<Ahead>(*this);
            ahead_->thread.await(most, nothing_else);
            if (!ahead_->thread.ended()) return std::min(most, ahead_->thread.available());
        }
        return most;
    }
    // Between await() and rest() the thread goes on, and tells `wake` of an item or the end.
    void go_on(std::size_t most, const std::shared_ptr<CompletionQueue>& wake) {
        if (ahead_) ahead_->thread.go_on(most, wake);
    }
    void rest() {
        if (ahead_) ahead_->thread.rest();
    }

    // True: there is an item, take() it. The range is advanced no sooner than the item is wanted:
    // it may be somebody who types.
    bool has_item() {
        if (ahead_) {
            if (ahead_->thread.available() > 0) return true;
            ahead_->thread.rethrow_error();
        } else if (advance()) {
            return true;
        }
        takes_added_ = has_added();
        return takes_added_;
    }
    Taken take() {
        if constexpr (kGrows) {
            if (std::exchange(takes_added_, false)) {
                taken_.emplace(std::move(added_.front()));
                added_.pop_front();
                return static_cast<Taken>(*taken_);
            }
        }
        if constexpr (kMayBlock) {
            if (ahead_) return ahead_->take();
        }
        used_ = true;
        return static_cast<Taken>(**position_);
    }
    // Where items lie side by side in memory: the next ones, `most` at most; fewer at the end.
    auto take_span(std::size_t most) requires kIsContiguous {
        (void)advance();  // now position_ is at the next one
        auto left = static_cast<std::size_t>(std::ranges::end(range_.get()) - *position_);
        std::span items(std::to_address(*position_), std::min(most, left));
        *position_ += static_cast<std::ptrdiff_t>(items.size());
        return items;
    }
    // Comes after the range's own items.
    void add(Item item) { added_.push_back(std::move(item)); }
    bool has_added() const { return !added_.empty(); }
    // 0: it is not known.
    std::size_t size() {
        if constexpr (std::ranges::sized_range<Plain>)
            return static_cast<std::size_t>(std::ranges::size(range_.get()));
        else
            return 0;
    }

  private:
    bool advance() {
        if (!position_)
            position_.emplace(std::ranges::begin(range_.get()));
        else if (std::exchange(used_, false))
            ++*position_;
        return *position_ != std::ranges::end(range_.get());
    }
    // What the thread has pulled. While it is there, the range is the thread's.
    struct Ahead {
        using Kept = std::conditional_t<kRefers, std::add_pointer_t<Reference>, Item>;

        explicit Ahead(Input& input)
            : thread([this, &input] { return pull(input); },
                     [this] { kept.push_back(*std::exchange(pulled, std::nullopt)); }) {}
        bool pull(Input& input) {
            if (!input.advance()) return false;
            input.used_ = true;
            if constexpr (kRefers)
                pulled.emplace(std::addressof(**input.position_));
            else
                pulled.emplace(**input.position_);
            return true;
        }
        Taken take() {
            return thread.take([this]() -> Taken {
                Kept item = std::move(kept.front());
                kept.pop_front();
                if constexpr (kRefers)
                    return *item;
                else
                    return item;
            });
        }

        std::optional<Kept> pulled;
        std::deque<Kept> kept;  // guarded by the thread's mutex
        InputThread thread;
    };

    HeldRange<Range> range_;
    std::optional<std::ranges::iterator_t<Plain>> position_;
    bool used_ = false;             // *position_ was taken: advance before the next
    std::unique_ptr<Ahead> ahead_;  // with kMayBlock only
    std::deque<Item> added_;
    std::optional<Item> taken_;  // of these: the last
    bool takes_added_ = false;   // the next one is of these
};

}  // namespace detail

// The face of a stream. Derived has next_outcome(), read_rest(results) to take what needs no
// outcome of its own, hold(), to keep the pool from ending meanwhile, and hands_over_at_end(): its
// consumer does nothing with a result before the last has come.
template <class Derived, class R>
class StreamFace {
  public:
    using Result = R;
    using Value = typename Outcome<Result>::Value;

    class Iterator {
      public:
        using value_type = Value;
        using difference_type = std::ptrdiff_t;
        explicit Iterator(StreamFace* stream) : stream_(stream) { stream_->advance(); }
        Value& operator*() const { return stream_->current_->value(); }
        Iterator& operator++() {
            stream_->advance();
            return *this;
        }
        void operator++(int) { ++*this; }
        bool operator==(std::default_sentinel_t) const { return !stream_->current_; }

      private:
        StreamFace* stream_;
    };
    Iterator begin() { return Iterator(this); }
    std::default_sentinel_t end() const { return {}; }

    // The same stream, with each item's value or error: for (auto& item : stream.outcomes()).
    OutcomeStream<Derived> outcomes() && { return OutcomeStream<Derived>(std::move(derived())); }
    OutcomeStream<Derived&> outcomes() & { return OutcomeStream<Derived&>(derived()); }

    // The next outcome, with the item's value or error, if it comes in time. Nothing: not yet, or
    // not any more (ended()). An item that threw, and is run again, is waited for.
    [[nodiscard]] std::optional<Outcome<Result>> next_for(Timeout timeout) {
        return derived().next_outcome(detail::deadline_after(timeout));
    }

    // Everything, in order; then throws the first error if there was one. For map().
    auto collect() && {
        std::shared_ptr<void> held = derived().hold();
        derived().hands_over_at_end();
        using Results = std::conditional_t<std::is_void_v<Result>, bool, std::vector<Value>>;
        Results results{};
        if constexpr (!std::is_void_v<Result>) results.reserve(derived().input_size());
        std::exception_ptr first_error;
        std::size_t done = 0;
        while (auto outcome = derived().next_outcome()) {
            if (!*outcome) {
                if (!first_error) first_error = outcome->error();
            } else if constexpr (!std::is_void_v<Result>) {
                results.push_back(std::move(outcome->value()));
                if (!first_error) derived().read_rest(results);
                done = results.size();
            } else {
                ++done;
            }
        }
        if (first_error) detail::rethrow_of_map(first_error, done, derived().input_size());
        if constexpr (!std::is_void_v<Result>) return results;
    }

  private:
    Derived& derived() { return static_cast<Derived&>(*this); }
    void advance() {
        current_.reset();
        current_ = derived().next_outcome();
        if (current_ && !*current_) std::rethrow_exception(current_->error());
    }
    std::optional<Outcome<Result>> current_;
};

// A stream seen as outcomes. S: a Stream that it owns, or a reference to one.
template <class S>
class OutcomeStream {
    using Element = Outcome<typename std::remove_reference_t<S>::Result>;

  public:
    explicit OutcomeStream(S&& stream) : stream_(std::forward<S>(stream)) {}
    // Items to come; 0: it is not known.
    std::size_t input_size() { return stream_.input_size(); }

    class Iterator {
      public:
        using value_type = Element;
        using difference_type = std::ptrdiff_t;
        explicit Iterator(OutcomeStream* outer) : outer_(outer) { ++*this; }
        Element& operator*() const { return *outer_->current_; }
        Iterator& operator++() {
            outer_->current_.reset();
            outer_->current_ = outer_->stream_.next_outcome();
            return *this;
        }
        void operator++(int) { ++*this; }
        bool operator==(std::default_sentinel_t) const { return !outer_->current_; }

      private:
        OutcomeStream* outer_;
    };
    Iterator begin() { return Iterator(this); }
    std::default_sentinel_t end() const { return {}; }

  private:
    S stream_;
    std::optional<Element> current_;
};

}  // namespace sidestep
