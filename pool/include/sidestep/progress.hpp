// Progress of a loop: a bar with rate and time left on a terminal, a line now and then in a log.
//
//     for (Row& row : sidestep::progress(stream, {.label = "rows"})) use(row);
//
// On a terminal it fits the width, whatever becomes of that: the size is asked for at each refresh,
// and no signal is taken. The cursor waits on an empty line above the bar, so what this program and
// its tasks print meanwhile goes there, and stands above the bar from then on: up to three lines
// between two refreshes, each ended by a newline; any number of what comes by Output::lines.
//
// Environment: TERM=dumb, or none: as if it were no terminal. NO_COLOR: no colours. Eighths of a
//          character where LC_ALL, LC_CTYPE or LANG says UTF-8, but for Linux's console.
// Threads: one thread.
// Errors:  none; what cannot be written is dropped.
#pragma once

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <ranges>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace sidestep::inline v0 {

class Pool;

struct ProgressOptions {
    // Items to come. 0: what the range says, if it does; else it is not known (no bar, no time
    // left).
    std::uint64_t total = 0;
    std::string label = {};  // begins the line
    bool quiet = false;      // says nothing
    // Where to write. A terminal gets a line that is rewritten ten times a second; anything else a
    // line every five seconds, and one at the end if there was one before.
    std::FILE* out = nullptr;  // null: stderr
    // On a terminal: lines below the bar, asked for at each refresh, as many as fit, and cut to the
    // width. worker_lines(pool) has one for each worker. Null: none.
    std::function<std::vector<std::string>()> lines = nullptr;
};
// What the pool's workers do now: "worker 3: task 17 (resize cat.jpg), 2 s". The pool outlives it.
std::function<std::vector<std::string>()> worker_lines(const Pool& pool);

struct ProgressCount {
    std::uint64_t done = 0;
    std::uint64_t failed = 0;  // of these
};
// How a terminal is written to.
struct ProgressStyle {
    bool blocks = false;  // the bar is of Unicode's eighths of a block
    bool colour = false;
};
// "label  45% [=====>     ] 450/1000, 2 failed, 90 /s, 5 s, 6 s left": the elapsed time, and that
// which is left. In `columns` at most: the bar gets shorter, then the end and the middle go, then
// the label is cut. 0: as long as it gets.
std::string format_progress(const ProgressOptions& options, ProgressCount count,
                            std::chrono::nanoseconds elapsed, std::size_t columns = 0,
                            ProgressStyle style = {});
inline std::string format_progress(const ProgressOptions& options, std::uint64_t done,
                                   std::chrono::nanoseconds elapsed) {
    return format_progress(options, ProgressCount{done}, elapsed);
}

// The meter by itself, for loops of another shape.
class ProgressMeter {
  public:
    explicit ProgressMeter(ProgressOptions options);
    ~ProgressMeter();  // finishes
    ProgressMeter(const ProgressMeter&) = delete;
    ProgressMeter& operator=(const ProgressMeter&) = delete;

    // `done` items of all, of which so many have failed. Cheap: looks at the clock only now and
    // then.
    void update(std::uint64_t done, std::uint64_t failed = 0);
    // Calls write(), and has no bar on the terminal meanwhile: any number of whole lines that it
    // prints, and flushes, stand above the bar then. What it throws is passed on.
    void print_above(const std::function<void()>& write);
    // The last line, once.
    void finish();

  private:
    void show();

    void draw(std::chrono::nanoseconds elapsed);

    ProgressOptions options_;
    bool terminal_;
    ProgressStyle style_;
    bool shown_ = false;
    bool finished_ = false;
    ProgressCount count_;
    std::uint64_t look_at_ = 1;  // the item at which the clock is looked at next
    std::chrono::steady_clock::time_point begin_, last_;
};

namespace detail {
// An item that may be an error instead: a stream's outcome.
template <class T>
concept MayHaveFailed = requires(const T& item) {
    { item.has_value() } -> std::same_as<bool>;
    { item.error() } -> std::convertible_to<std::exception_ptr>;
};
template <class Range>
std::uint64_t size_of_input(Range& range) {
    if constexpr (requires { range.input_size(); })
        return range.input_size();
    else if constexpr (std::ranges::sized_range<Range>)
        return static_cast<std::uint64_t>(std::ranges::size(range));
    else
        return 0;
}
}  // namespace detail

// A range that counts what is taken from it, and what of that has failed: outcomes that are errors,
// and what is thrown by going on. It refers to `range`, which must outlive it, unless it was moved
// in.
template <class Range>
class ProgressRange {
  public:
    ProgressRange(Range&& range, ProgressOptions options) : range_(std::forward<Range>(range)) {
        if (options.total == 0) options.total = detail::size_of_input(range_);
        meter_ = std::make_unique<ProgressMeter>(std::move(options));
    }

    class Iterator {
        using Inner = decltype(std::ranges::begin(std::declval<Range&>()));

      public:
        using value_type = std::iter_value_t<Inner>;
        using difference_type = std::ptrdiff_t;
        Iterator(ProgressRange* outer, Inner inner) : outer_(outer), inner_(std::move(inner)) {}
        decltype(auto) operator*() const { return *inner_; }
        Iterator& operator++() {
            if constexpr (detail::MayHaveFailed<value_type>)
                outer_->failed_ += !(*inner_).has_value();
            ++outer_->done_;
            try {
                ++inner_;
            } catch (...) {  // the next one
                ++outer_->done_;
                ++outer_->failed_;
                outer_->update();
                throw;
            }
            outer_->update();
            return *this;
        }
        void operator++(int) { ++*this; }
        bool operator==(std::default_sentinel_t) const {
            bool end = inner_ == std::ranges::end(outer_->range_);
            if (end) outer_->meter_->finish();
            return end;
        }

      private:
        ProgressRange* outer_;
        Inner inner_;
    };
    Iterator begin() { return Iterator(this, std::ranges::begin(range_)); }
    std::default_sentinel_t end() const { return {}; }

  private:
    void update() { meter_->update(done_, failed_); }

    Range range_;
    std::unique_ptr<ProgressMeter> meter_;
    std::uint64_t done_ = 0, failed_ = 0;
};

template <class Range>
ProgressRange<Range> progress(Range&& range, ProgressOptions options = {}) {
    return ProgressRange<Range>(std::forward<Range>(range), std::move(options));
}

}  // namespace sidestep
