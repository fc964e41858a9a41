// Several items in one task: how map and the streams cut their input. Internal.
//
// Arguments of a chunk: the callable, {the number of items n (and kStopsAtError), the first one's
//                       place in the input}, each item (see save_sized).
// Result of a chunk:    a bit for each item, set if it failed ((n + 7) / 8 bytes); then, in order,
//                       each item's value (see save_sized), or {size, error}.
//
// One item's error is that item's alone: an item that cannot be read, and a result that cannot be
// written or read, are such errors. After each item the worker says how far it is (ChunkProgress),
// so that if it dies, or is stopped, what was done is kept, one item is to blame, and the rest is
// run elsewhere. There the items before are not read again: each item, and each value, is read by
// itself. (Two items that point to one object have one each when they arrive.)
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <sidestep/detail/call_times.hpp>
#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/printed_output.hpp>
#include <sidestep/detail/progress_teller.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/task.hpp>
#include <sidestep/this_task.hpp>

namespace sidestep::inline v0::detail {

// Where this process is, for tracebacks: set by the worker, empty elsewhere.
const std::string& process_description();
void set_process_description(std::string text);
// That, and which task this thread runs, in which attempt if it is not the first. Empty if there is
// no memory for it.
std::string task_description() noexcept;

// How many items are finished, and how many bytes of the result they take; one word.
struct ChunkProgress {
    static constexpr unsigned kSizeBits = 40;
    static constexpr std::uint64_t kMostItems = std::uint64_t(1) << 23;

    static std::uint64_t pack(std::uint64_t items, std::uint64_t bytes) {
        return items << kSizeBits | bytes;
    }
    static std::uint64_t items(std::uint64_t word) { return word >> kSizeBits; }
    static std::uint64_t bytes(std::uint64_t word) {
        return word & ((std::uint64_t(1) << kSizeBits) - 1);
    }
};

// With the number of a chunk's items: none is begun after one that failed; what comes after that
// has no result. (For whoever reads results up to the first error.)
inline constexpr std::uint64_t kStopsAtError = std::uint64_t(1) << 63;

// True of types that leave nothing in their archive for those that come after: no table of shared
// pointers or of polymorphic types, no version of a class.
template <class T>
inline constexpr bool kSelfContained =
    std::is_arithmetic_v<T> || std::is_enum_v<T> || BitwiseElement<T>;
template <class Traits, class Allocator>
inline constexpr bool kSelfContained<std::basic_string<char, Traits, Allocator>> = true;
template <class T, class Allocator>
inline constexpr bool kSelfContained<std::vector<T, Allocator>> = kSelfContained<T>;
template <class T, std::size_t n>
inline constexpr bool kSelfContained<std::array<T, n>> = kSelfContained<T>;
template <class T>
inline constexpr bool kSelfContained<std::optional<T>> = kSelfContained<T>;
template <class A, class B>
inline constexpr bool kSelfContained<std::pair<A, B>> = kSelfContained<A>&& kSelfContained<B>;
template <class... T>
inline constexpr bool kSelfContained<std::tuple<T...>> = (kSelfContained<T> && ...);

// One item or value among others. What is no number goes with its size in front, so that who cannot
// read one of them finds the next, and apart (OutputArchive::apart), so that it can be read without
// those before it: they may have been skipped, or have failed amid being written or read.
template <class T>
void save_sized(OutputArchive& archive, const T& value) {
    if constexpr (std::is_arithmetic_v<T>) {
        archive(value);
    } else {
        OutputBuffer& buffer = archive.buffer();
        std::size_t at = buffer.size();
        std::uint64_t size = 0;
        archive(size);
        if constexpr (kSelfContained<T>)
            archive(value);
        else
            archive.apart()(value);
        size = buffer.size() - at - sizeof size;
        std::memcpy(buffer.begin() + at, &size, sizeof size);
    }
}
// The bytes of the next one; leaves the archive behind it.
inline std::span<const std::byte> view_sized(InputArchive& archive) {
    std::uint64_t size = 0;
    archive(size);
    if (size > archive.remaining()) throw_bad_length(size, archive.remaining());
    return archive.view(static_cast<std::size_t>(size));
}
// Leaves the archive at the next one, also if it throws.
template <class T>
void load_sized(InputArchive& archive, T& value) {
    if constexpr (std::is_arithmetic_v<T>) {
        archive(value);
    } else {
        std::span<const std::byte> bytes = view_sized(archive);
        if constexpr (kSelfContained<T>) {
            struct GoOn {
                InputArchive& archive;
                std::span<const std::byte> rest;
                ~GoOn() { archive.reset(rest); }
            } after{archive, archive.view(archive.remaining())};
            archive.reset(bytes);
            archive(value);
            archive.expect_end();
        } else {
            InputArchive& own = archive.apart(bytes);
            own(value);
            own.expect_end();
        }
    }
}
template <class T>
void skip_sized(InputArchive& archive) {
    if constexpr (std::is_arithmetic_v<T>)
        (void)archive.view(sizeof(T));
    else
        (void)view_sized(archive);
}

// Writes the exception that is being handled as the result of item `index` of those that have a bit
// in `result`; its traceback says which item of the map it is.
void save_item_error(OutputArchive& result, std::uint64_t index);
// Of the item that this thread runs: see rethrow_unread().
[[noreturn]] void rethrow_item_unread();
void save_item_bits(OutputArchive& result, std::uint64_t count);

template <bool kSpread, class F, class Item>
struct ChunkResult {
    using type = std::decay_t<std::invoke_result_t<F&, Item&&>>;
};
template <class F, class Item>
struct ChunkResult<true, F, Item> {
    using type = std::decay_t<decltype(std::apply(std::declval<F&>(), std::declval<Item&&>()))>;
};

template <bool kSpread, class F, class Item>
struct Chunk {
    using Result = typename ChunkResult<kSpread, F, Item>::type;

    static Result call(F& f, Item&& item) {
        if constexpr (kSpread)
            return std::apply(f, std::move(item));
        else
            return std::invoke(f, std::move(item));
    }
    static void note_start(const TaskContext& context) {
        if (context.started_ns)  // relaxed: the store of the progress publishes it
            context.started_ns->store(steady_now_ns(), std::memory_order_relaxed);
    }
    // Out of line: the loop is fast because it is small.
    [[gnu::noinline]] static void call_measured(F& f, Item&& item, OutputArchive& result,
                                                CallTimes& times) {
        times.arguments_read();
        if constexpr (std::is_void_v<Result>) {
            call(f, std::move(item));
            times.called();
        } else {
            Result value(call(f, std::move(item)));
            times.called();
            save_sized<Result>(result, value);
            times.result_written();
        }
    }
    // no_sanitize: by the ABI, who catches a forced unwind is given a null reference.
    __attribute__((no_sanitize("null"))) static void run(InputArchive& arguments,
                                                         OutputArchive& result) {
        F f = load_callable<F>(arguments);
        std::uint64_t count = 0, first = 0;
        arguments(count, first);
        const bool stops_at_error = count & kStopsAtError;
        count &= ~kStopsAtError;
        TaskContext& context = *task_context();
        std::uint64_t begin = std::min<std::uint64_t>(context.items_begin, count);
        std::uint64_t end =
            context.items_end ? std::min<std::uint64_t>(context.items_end, count) : count;
        save_item_bits(result, end - begin);
        CallTimes* const times = result.times();
        std::uint64_t next_measured = times ? begin : end;
        for (std::uint64_t i = 0; i < begin; ++i) skip_sized<Item>(arguments);
        note_start(context);
        for (std::uint64_t i = begin; i < end; ++i) {
            bool measured = i == next_measured;
            if (measured) {
                next_measured += CallTimes::kItemsForOne;
                times->begin();
            }
            context.item = first + i;
            std::size_t mark = result.buffer().size();
            try {
                Item item = make_blank<Item>();
                try {
                    load_sized(arguments, item);
                } catch (...) {
                    rethrow_item_unread();
                }
                if (measured)
                    call_measured(f, std::move(item), result, *times);
                else if constexpr (std::is_void_v<Result>)
                    call(f, std::move(item));
                else
                    save_sized<Result>(result, call(f, std::move(item)));
            } catch (...) {
                pass_on_forced_unwind();
                result.buffer().truncate(mark);
                save_item_error(result, i - begin);
                if (stops_at_error) end = i + 1;
            }
            if (context.progress) {
                // What it printed is out when its result counts. What waits elsewhere is seen at
                // the end of the task, or, once something did, after each item.
                if (stdout_waits() || context.prints_elsewhere) flush_printed();
                // The start of the next one comes first, or that might be found late for this one.
                note_start(context);
                context.progress->tell(ChunkProgress::pack(i - begin + 1, result.buffer().size()));
            }
            if (context.stop_requested()) return;  // nobody waits for the rest
        }
        if (end == count) arguments.expect_end();
    }
};

// Reads a chunk's result, item by item.
class ChunkReader {
  public:
    // The bytes of a result that was begun with `items` items; the last ones may be missing. They
    // must outlive the reader. Throws SerializationError.
    void open(std::span<const std::byte> bytes, std::uint64_t items);

    // The error of item `index` (asked in order), or null: then its value is next in values().
    std::exception_ptr next_error(std::uint64_t index);
    InputArchive& values() { return values_; }
    bool has_errors() const { return has_errors_; }

  private:
    InputArchive values_{std::span<const std::byte>()};
    std::span<const std::byte> bits_;
    bool has_errors_ = false;
};

// Chooses how many items the next chunk gets.
//
// A chunk should run for about kTarget: long enough to hide what a task costs, short enough to
// balance. Its size follows the measured time of an item (growing at most eightfold at a time,
// since the first item may not be typical), and near the end is at most half of an even share, so
// that the workers finish together.
class ChunkSizer {
  public:
    static constexpr std::uint64_t kTargetNs = 500'000;

    // fixed: the user's chunksize, or 0. total: the number of items, or 0 if it is not known.
    ChunkSizer(std::size_t fixed, std::uint64_t total, unsigned workers)
        : fixed_(fixed), left_(total), sized_(total > 0), workers_(std::max(workers, 1u)) {}

    std::size_t next() const;
    void submitted(std::size_t items);
    void grow() { ++left_; }
    void completed(std::size_t items, std::uint64_t duration_ns);

  private:
    std::size_t fixed_;
    std::uint64_t left_;  // items not yet submitted
    bool sized_;
    unsigned workers_;
    std::size_t current_ = 1;
};

// A chunk is sent off when its items have taken as long to get as it should take to run.
class PullTimer {
  public:
    explicit PullTimer(bool runs) : begin_(runs ? steady_now_ns() : 0) {}
    // After so many items. Looks at the clock now and then.
    bool is_over(std::size_t items) const {
        bool looks = items < 16 ? (items & (items - 1)) == 0 : items % 16 == 0;
        return looks && steady_now_ns() - begin_ > ChunkSizer::kTargetNs;
    }

  private:
    std::uint64_t begin_;
};

// How far a stream runs ahead of its consumer: the size of chunks, and how many may fly.
class ChunkWindow {
  public:
    // chunksize, window: the user's, or 0. total: the number of items, or 0 if it is not known.
    ChunkWindow(std::size_t chunksize, std::size_t window, std::uint64_t total, unsigned workers)
        : sizer_(chunksize, total, workers), window_(window), most_chunks_(2 * workers + 2) {}

    // Items in the next chunk.
    std::size_t next_size() const {
        std::size_t most = std::min<std::size_t>(sizer_.next(), ChunkProgress::kMostItems);
        return window_ > 0 ? std::min(most, window_) : most;
    }
    // chunks: that are not consumed yet. One is always allowed, whatever the window.
    bool has_room(std::size_t chunks) const {
        if (chunks == 0) return true;
        if (window_ > 0) return submitted_ - taken_ + next_size() <= window_;
        return chunks < most_chunks_;
    }
    std::size_t submitted() const { return submitted_; }  // items: the next one's place
    void submit(std::size_t items) {
        submitted_ += items;
        sizer_.submitted(items);
    }
    void take(std::size_t items) { taken_ += items; }
    void grow() { sizer_.grow(); }  // there is one more item to come
    void completed(std::size_t items, std::uint64_t duration_ns) {
        sizer_.completed(items, duration_ns);
    }

  private:
    ChunkSizer sizer_;
    std::size_t window_;
    std::size_t most_chunks_;
    std::size_t submitted_ = 0;
    std::size_t taken_ = 0;
};

}  // namespace sidestep::detail
