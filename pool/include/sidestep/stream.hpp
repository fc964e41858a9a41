// Stream: the results of imap and imap_unordered, an input range that is pulled.
//
//     for (const Row& row : pool.imap(parse, lines)) use(row);
//
// Items are taken from the input only as the stream is advanced, and no more than the window are
// between input and consumer, however long the input is. Leaving the loop early cancels what no
// worker has begun.
//
// Errors: advancing to an item that failed throws its error, and the stream can go on: catch inside
//         the loop is not possible, so use outcomes() to see each item's value or error. An item
//         whose `serialize` throws is that item's error. An input iterator that throws is the error
//         of the item it stood for, and ends the input.
// Ownership: a Stream refers to a range that was passed as an lvalue, and owns one that was moved
//         in. It is moved, not copied, before its first use. It may outlive its pool.
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
#include <type_traits>
#include <utility>
#include <vector>

#include <sidestep/chunk.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/pool_task.hpp>

namespace sidestep {

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

}  // namespace detail

// Range: a reference for a range that was passed as an lvalue, else the range's type.
template <class F, class Range, bool kSpread, bool kUnordered>
class Stream {
    using Plain = std::remove_reference_t<Range>;
    using Item = detail::Stored<std::ranges::range_value_t<Plain>>;
    using Body = detail::Chunk<kSpread, F, Item>;

  public:
    using Result = typename Body::Result;
    using Value = typename Outcome<Result>::Value;

    Stream(std::shared_ptr<detail::PoolCore> core, F f, Range&& items, const MapOptions& options,
           unsigned workers)
        : core_(std::move(core)),
          f_(std::move(f)),
          items_(std::forward<Range>(items)),
          sizer_(options.chunksize, size_of(items_.get()), workers),
          window_(options.window),
          most_chunks_(2 * workers + 2) {
        check();
        detail::check_options(options.task);
        if (options.task.says_anything()) options_ = std::make_unique<TaskOptions>(options.task);
        if constexpr (kUnordered) completions_ = std::make_unique<detail::Completions>(core_);
    }
    // Internal: chunks may be submitted after the pool's close().
    void goes_on_when_closed() { begun_ = true; }
    Stream(Stream&&) = default;
    Stream& operator=(Stream&&) = delete;
    ~Stream() { cancel_rest(); }

    // The next outcome; nothing at the end.
    std::optional<Outcome<Result>> next_outcome() {
        for (;;) {
            if (open_ && open_->next == open_->items) open_.reset();
            fill();
            if (open_) return read_item();
            if (flying_.empty()) return {};
            open_next_chunk();
        }
    }

    class Iterator {
      public:
        using value_type = Value;
        using difference_type = std::ptrdiff_t;
        explicit Iterator(Stream* stream) : stream_(stream) { stream_->advance(); }
        Value& operator*() const { return stream_->current_->value(); }
        Iterator& operator++() {
            stream_->advance();
            return *this;
        }
        void operator++(int) { ++*this; }
        bool operator==(std::default_sentinel_t) const { return !stream_->current_; }

      private:
        Stream* stream_;
    };
    Iterator begin() { return Iterator(this); }
    std::default_sentinel_t end() const { return {}; }

    // The same stream, with each item's value or error: for (auto& item : stream.outcomes()).
    OutcomeStream<Stream> outcomes() && { return OutcomeStream<Stream>(std::move(*this)); }
    OutcomeStream<Stream&> outcomes() & { return OutcomeStream<Stream&>(*this); }

    // Everything, in order; then throws the first error if there was one. For Pool::map.
    auto collect() && {
        using Results = std::conditional_t<std::is_void_v<Result>, bool, std::vector<Value>>;
        Results results{};
        if constexpr (!std::is_void_v<Result>) results.reserve(size_of(items_.get()));
        std::exception_ptr first_error;
        while (auto outcome = next_outcome()) {
            if (!*outcome) {
                if (!first_error) first_error = outcome->error();
            } else if constexpr (!std::is_void_v<Result>) {
                results.push_back(std::move(outcome->value()));
                if (!first_error) read_rest(results);
            }
        }
        if (first_error) std::rethrow_exception(first_error);
        if constexpr (!std::is_void_v<Result>) return results;
    }

  private:
    struct Flying {
        detail::PoolTaskRef task;  // or none:
        std::size_t first = 0, items = 0;
        std::exception_ptr error;  // one item that could not be had or sent
    };
    struct Open {
        detail::PoolTaskRef task;
        detail::ChunkReader reader;
        std::exception_ptr error;  // of the chunk as a whole
        std::size_t first = 0, items = 0, next = 0;
    };

    static constexpr void check() {
        if constexpr (!kSpread)
            detail::check_task<F, Item>();
        else
            static_assert(detail::TaskCallable<F> && detail::Travels<Item>,
                          "starmap: the callable or the tuples cannot be serialized (task.hpp)");
        static_assert(std::is_void_v<Result> || detail::Travels<Result>,
                      "the result cannot be serialized: give its type a cereal `serialize` member");
    }
    static std::size_t size_of(Plain& items) {
        if constexpr (std::ranges::sized_range<Plain>)
            return static_cast<std::size_t>(std::ranges::size(items));
        else
            return 0;
    }

    // Items in the next chunk.
    std::size_t next_size() const {
        std::size_t most = std::min(sizer_.next(), detail::ChunkProgress::kMostItems);
        return window_ > 0 ? std::min(most, window_) : most;
    }
    bool may_submit() const {
        if (input_ended_) return false;
        if (flying_.empty() && !open_) return true;  // at least one chunk, whatever the window
        if (window_ > 0) return submitted_ - taken_ + next_size() <= window_;
        return flying_.size() + (open_ ? 1 : 0) < most_chunks_;
    }
    void fill() {
        while (may_submit()) submit_chunk();
    }

    // True: *position_ is the next item. The input is advanced no sooner than the item is wanted:
    // it may be somebody who types.
    bool pull() {
        if (!position_)
            position_.emplace(std::ranges::begin(items_.get()));
        else if (std::exchange(used_, false))
            ++*position_;
        return *position_ != std::ranges::end(items_.get());
    }

    // Serializes the next items, at most `most` of them; how many it got. Their descriptors go
    // with the task.
    std::uint64_t pull_items(detail::PoolTask& task, std::size_t most) {
        static constexpr std::size_t kMostBytes = std::size_t(1) << 20;
        OutputArchive items(scratch_, task.fds());
        std::uint64_t count = 0;
        try {
            while (count < most && scratch_.size() < kMostBytes) {
                if (!pull()) {
                    input_ended_ = true;
                    break;
                }
                auto&& item = **position_;
                used_ = true;
                std::size_t mark = scratch_.size();
                try {
                    items(static_cast<const Item&>(item));
                } catch (...) {  // that item's error alone
                    scratch_.truncate(mark);
                    item_error_ = std::current_exception();
                    break;
                }
                ++count;
            }
        } catch (...) {
            item_error_ = std::current_exception();
            input_ended_ = true;
        }
        return count;
    }

    // Pulls the next items and sends them off as one task.
    void submit_chunk() {
        scratch_.clear();
        detail::PoolTaskRef task =
            detail::PoolTask::create(core_, detail::task_kind<Body>(f_), options_.get());
        std::uint64_t count = pull_items(*task, next_size());
        if (count > 0) {
            OutputArchive archive(task->arguments(), task->fds());
            detail::save_callable<F>(archive, f_);
            archive(count, static_cast<std::uint64_t>(submitted_));
            archive.write(scratch_.begin(), scratch_.size());
            task->set_chunk(static_cast<std::uint32_t>(count), submitted_);
            detail::PoolTask::submit(task, completions_.get(), begun_);
            note_submitted({std::move(task), submitted_, static_cast<std::size_t>(count), {}});
        }
        if (item_error_) note_submitted({{}, submitted_, 1, std::exchange(item_error_, nullptr)});
    }
    void note_submitted(Flying chunk) {
        submitted_ += chunk.items;
        sizer_.submitted(chunk.items);
        flying_.push_back(std::move(chunk));
    }

    // Unordered: what needs no waiting first.
    Flying next_chunk() {
        auto at = flying_.begin();
        if constexpr (kUnordered) {
            at = std::find_if(at, flying_.end(), [](const Flying& c) { return !c.task; });
            if (at == flying_.end()) {
                detail::PoolTaskRef done = completions_->next();
                at = std::find_if(flying_.begin(), flying_.end(),
                                  [&](const Flying& c) { return c.task.get() == done.get(); });
            }
        }
        Flying chunk = std::move(*at);
        flying_.erase(at);
        return chunk;
    }

    // Waits for the oldest chunk, or for the first that is done.
    void open_next_chunk() {
        Flying chunk = next_chunk();
        open_ = std::make_unique<Open>();
        open_->first = chunk.first;
        open_->items = chunk.items;
        open_->error = chunk.error;
        if (!chunk.task) return;
        chunk.task->wait({});
        open_->task = std::move(chunk.task);
        try {
            open_->reader.open(open_->task->result(), open_->items);
            take_split();
            sizer_.completed(open_->items, open_->task->duration_ns());
        } catch (...) {  // the whole chunk failed: each of its items did
            open_->error = std::current_exception();
        }
    }

    // A chunk that was ended by one of its items: that one comes next, and the rest after it.
    void take_split() {
        const detail::PoolTask::Split* split = open_->task->split();
        if (!split) return;
        std::size_t done = open_->task->items_done();
        std::size_t item = open_->first + done;
        if (split->rest) flying_.push_front({split->rest, item + 1, open_->items - done - 1, {}});
        flying_.push_front({split->again, item, 1, split->error});
        open_->items = done;
    }

    Outcome<Result> read_item() {
        std::size_t at = open_->next++;
        ++taken_;
        std::size_t index = open_->first + at;
        if (open_->error) return {index, open_->error};
        try {
            if (auto error = open_->reader.next_error(at)) return retried(at, std::move(error));
            Value value{};
            if constexpr (!std::is_void_v<Result>) open_->reader.values()(value);
            return {index, std::move(value)};
        } catch (...) {  // what follows in this chunk cannot be read either
            open_->error = std::current_exception();
            return {index, open_->error};
        }
    }

    // An item that threw is run again, here and now, if its options say so.
    Outcome<Result> retried(std::size_t at, std::exception_ptr error) {
        std::size_t index = open_->first + at;
        detail::PoolTaskRef task = open_->task;
        auto item = static_cast<std::uint32_t>(at);
        while ((task = detail::PoolTask::run_item_again(task, item, error))) {
            item = 0;
            try {
                task->wait({});
                while (const auto* split = task->split()) {  // it cost its worker
                    if (!split->again) return {index, split->error};
                    task = split->again;
                    task->wait({});
                }
                detail::ChunkReader reader;
                reader.open(task->result(), 1);
                error = reader.next_error(0);
                if (error) continue;
                Value value{};
                if constexpr (!std::is_void_v<Result>) reader.values()(value);
                return {index, std::move(value)};
            } catch (...) {
                return {index, std::current_exception()};
            }
        }
        return {index, std::move(error)};
    }

    // The rest of an open chunk without errors, without an Outcome for each.
    template <class Results>
    void read_rest(Results& results) {
        if (!open_ || open_->error || open_->reader.has_errors()) return;
        if constexpr (std::is_arithmetic_v<Value> && !std::is_same_v<Value, bool>) {
            std::size_t count = open_->items - open_->next;
            if (open_->reader.values().remaining() != count * sizeof(Value)) return;
            std::size_t old = results.size();
            results.resize(old + count);
            open_->reader.values().read(results.data() + old, count * sizeof(Value));
            open_->next += count;
            taken_ += count;
        }
    }

    void advance() {
        current_.reset();
        current_ = next_outcome();
        if (current_ && !*current_) std::rethrow_exception(current_->error());
    }
    void cancel_rest() {
        for (Flying& chunk : flying_)
            if (chunk.task) chunk.task->cancel_waiting();
    }

    std::shared_ptr<detail::PoolCore> core_;
    F f_;
    detail::HeldRange<Range> items_;
    std::optional<std::ranges::iterator_t<Plain>> position_;
    detail::ChunkSizer sizer_;
    std::size_t window_;
    std::size_t most_chunks_;
    std::unique_ptr<TaskOptions> options_;              // null: the pool's
    std::unique_ptr<detail::Completions> completions_;  // unordered only
    std::deque<Flying> flying_;
    std::unique_ptr<Open> open_;
    std::optional<Outcome<Result>> current_;
    detail::HeapBuffer scratch_;
    std::exception_ptr item_error_;  // of the item behind those just pulled
    bool used_ = false;              // *position_ was taken: advance before the next
    bool input_ended_ = false;
    bool begun_ = false;
    std::size_t submitted_ = 0;  // items
    std::size_t taken_ = 0;
};

// A stream seen as outcomes. S: a Stream that it owns, or a reference to one.
template <class S>
class OutcomeStream {
    using Element = Outcome<typename std::remove_reference_t<S>::Result>;

  public:
    explicit OutcomeStream(S&& stream) : stream_(std::forward<S>(stream)) {}

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
