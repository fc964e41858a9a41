// Progress of a loop: a bar with rate and time left on a terminal, a line now and then in a log.
//
//     for (Row& row : sidestep::progress(stream, {.total = 1000, .label = "rows"})) use(row);
//
// Threads: one thread.
// Errors:  none; what cannot be written is dropped.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <memory>
#include <ranges>
#include <string>
#include <type_traits>
#include <utility>

namespace sidestep {

struct ProgressOptions {
    std::uint64_t total = 0;  // items to come; 0: not known (no bar, no time left)
    std::string label = {};   // begins the line
    bool quiet = false;       // says nothing
    // Where to write. A terminal gets a line that is rewritten ten times a second; anything else a
    // line every five seconds, and one at the end if there was one before.
    std::FILE* out = nullptr;  // null: stderr
};

// "label  45% [=====>     ] 450/1000, 90 /s, 6 s left"
std::string format_progress(const ProgressOptions& options, std::uint64_t done,
                            std::chrono::nanoseconds elapsed);

// The meter by itself, for loops of another shape.
class ProgressMeter {
  public:
    explicit ProgressMeter(ProgressOptions options);
    ~ProgressMeter();  // finishes
    ProgressMeter(const ProgressMeter&) = delete;
    ProgressMeter& operator=(const ProgressMeter&) = delete;

    // `done` items of all. Cheap: looks at the clock only now and then.
    void update(std::uint64_t done);
    // The last line, once.
    void finish();

  private:
    void show();

    ProgressOptions options_;
    bool terminal_;
    bool shown_ = false;
    bool finished_ = false;
    std::uint64_t done_ = 0;
    std::uint64_t look_at_ = 1;  // the item at which the clock is looked at next
    std::chrono::steady_clock::time_point begin_, last_;
};

// A range that counts what is taken from it. It refers to `range`, which must outlive it, unless it
// was moved in.
template <class Range>
class ProgressRange {
  public:
    ProgressRange(Range&& range, ProgressOptions options)
        : range_(std::forward<Range>(range)),
          meter_(std::make_unique<ProgressMeter>(std::move(options))) {}

    class Iterator {
        using Inner = decltype(std::ranges::begin(std::declval<Range&>()));

      public:
        using value_type = std::iter_value_t<Inner>;
        using difference_type = std::ptrdiff_t;
        Iterator(ProgressRange* outer, Inner inner) : outer_(outer), inner_(std::move(inner)) {}
        decltype(auto) operator*() const { return *inner_; }
        Iterator& operator++() {
            ++inner_;
            outer_->meter_->update(++outer_->done_);
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
    Range range_;
    std::unique_ptr<ProgressMeter> meter_;
    std::uint64_t done_ = 0;
};

template <class Range>
ProgressRange<Range> progress(Range&& range, ProgressOptions options = {}) {
    return ProgressRange<Range>(std::forward<Range>(range), std::move(options));
}

}  // namespace sidestep
