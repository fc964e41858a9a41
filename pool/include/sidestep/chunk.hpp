// Several items in one task: how map and the streams cut their input. Internal.
//
// Arguments of a chunk: the callable, the number of items, the items.
// Result of a chunk:    the results of the items that succeeded, in order; then, for each that
//                       failed, {index in the chunk, size, error}; then the trailer: where the
//                       errors begin, and how many there are.
// One item's error is that item's alone; a result that cannot be serialized is such an error.
#pragma once

#include <cxxabi.h>

#include <cstdint>
#include <exception>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <sidestep/remote_error.hpp>
#include <sidestep/task.hpp>

namespace sidestep::detail {

// Where this process is, for tracebacks: set by the worker, empty elsewhere.
const std::string& process_description();
void set_process_description(std::string text);

struct ChunkTrailer {
    std::uint64_t errors_begin = 0;
    std::uint64_t errors = 0;
};

// The errors of a chunk while it runs.
class ChunkErrors {
  public:
    void add_current(std::uint64_t index);  // the exception that is being handled
    void finish(OutputArchive& result) const;

  private:
    std::uint64_t count_ = 0;
    HeapBuffer bytes_;
};

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
    static void run(InputArchive& arguments, OutputArchive& result) {
        F f = load_callable<F>(arguments);
        std::uint64_t count = 0;
        arguments(count);
        ChunkErrors errors;
        for (std::uint64_t i = 0; i < count; ++i) {
            // An item that cannot be read leaves the rest unreadable: that fails the whole chunk.
            Item item{};
            arguments(item);
            std::size_t mark = result.buffer().size();
            try {
                if constexpr (std::is_void_v<Result>)
                    call(f, std::move(item));
                else
                    result(call(f, std::move(item)));
            } catch (abi::__forced_unwind&) {
                throw;
            } catch (...) {
                result.buffer().truncate(mark);
                errors.add_current(i);
            }
        }
        arguments.expect_end();
        errors.finish(result);
    }
};

// Reads a chunk's result, item by item.
class ChunkReader {
  public:
    // The bytes must outlive the reader. Throws SerializationError.
    void open(std::span<const std::byte> bytes, std::uint64_t items);

    // The error of item `index` (asked in order), or null: then its value is next in values().
    std::exception_ptr next_error(std::uint64_t index);
    InputArchive& values() { return values_; }
    bool has_errors() const { return errors_left_ > 0; }

  private:
    void read_error_head();

    InputArchive values_{std::span<const std::byte>()};
    InputArchive errors_{std::span<const std::byte>()};
    std::uint64_t errors_left_ = 0;
    std::uint64_t error_index_ = 0;
    std::uint64_t error_size_ = 0;
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
        : fixed_(fixed), left_(total), sized_(total > 0), workers_(workers > 0 ? workers : 1) {}

    std::size_t next() const;
    void submitted(std::size_t items);
    void completed(std::size_t items, std::uint64_t duration_ns);

  private:
    std::size_t fixed_;
    std::uint64_t left_;  // items not yet submitted
    bool sized_;
    unsigned workers_;
    std::size_t current_ = 1;
};

}  // namespace sidestep::detail
