// The chunks of a stream that are between its input and its consumer. Internal.
//
// Threads: one thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include <sidestep/detail/chunk.hpp>
#include <sidestep/detail/completion_queue.hpp>
#include <sidestep/detail/deadline.hpp>
#include <sidestep/detail/early_end.hpp>
#include <sidestep/detail/task_state.hpp>
#include <sidestep/pool_options.hpp>

namespace sidestep::inline v0::detail {

// Items that were pulled together.
struct InFlightChunk {
    TaskRef task;  // that runs them; null: `error` is what became of each
    std::size_t first = 0, items = 0;
    std::exception_ptr error = nullptr;
    bool last = false;  // the pool refused them: nothing comes after
};
using InFlightChunks = std::deque<InFlightChunk>;

// The chunk whose items are read; without items: there is none.
struct OpenChunk : InFlightChunk {
    std::size_t next = 0;  // of its items, from 0

    bool has_item() const { return next < items; }
};

// What a stream is.
struct StreamShape {
    std::size_t items = 0;  // of the input; 0: it is not known
    unsigned workers = 1;
    bool unordered = false;
    bool input_may_block = false;  // see Input::kMayBlock
    UnfinishedItem callable = {};  // for messages: nothing is said of an item yet
};

// How one kind of pool runs the chunks of a stream: what is waited for, and how it is ended.
class ChunkTasks {
  public:
    virtual ~ChunkTasks() = default;

    // Waits for `front`, the task of the oldest chunk; of an unordered stream, and of one that
    // looks ahead, for any task that is done. May come back sooner. False: the deadline passed.
    virtual bool wait(TaskState& front, const EarlyEnd* early, const Deadline& until) = 0;
    // Of an unordered stream: waits for one that is done.
    virtual InFlightChunks::iterator next_done(InFlightChunks& chunks) = 0;
    // Of a stream that looks ahead: an item that failed, of what is done since the last call.
    virtual std::optional<FailedItem> next_failure(const InFlightChunks& chunks) = 0;
    // Takes it back if it has not begun. running_too: stops it.
    virtual void cancel(TaskState& task, bool running_too) = 0;
    // Says which of the chunk's items is the first that is not finished.
    virtual void describe(const InFlightChunk& chunk, UnfinishedItem& where) const = 0;
};

// How many chunks may be in flight, which of them comes next, and how all of them end early.
class InFlight {
  public:
    InFlight(std::unique_ptr<ChunkTasks> tasks, const StreamShape& shape, const MapOptions& options,
             std::size_t chunksize);
    InFlight(InFlight&&) = default;
    InFlight& operator=(InFlight&&) = delete;
    ~InFlight() { cancel_waiting(); }

    OpenChunk& open() { return open_; }
    const OpenChunk& open() const { return open_; }
    ChunkWindow& window() { return window_; }
    const InFlightChunks& chunks() const { return chunks_; }  // but for the open one
    const EarlyEnd* early() const { return early_.get(); }    // null: it has none
    // An item's error ends the stream before it is the item's turn.
    bool looks_ahead() const { return !unordered_ && early_ && early_->fail_fast; }
    // Told when a chunk is done, or an item was pulled. Null: the input cannot block, or nothing is
    // handed over before the end.
    const std::shared_ptr<CompletionQueue>& wake() const { return wake_; }
    void hand_over_at_end() { wake_ = nullptr; }

    bool input_ended() const { return input_ended_; }
    void end_input() { input_ended_ = true; }
    // One more item is to come. False: the stream was ended early.
    bool expect_item();
    // For one more chunk.
    bool has_room() const { return window_.has_room(count_ + (open_.items > 0 ? 1 : 0)); }
    // begin() sends it, when there is a place for what comes of it: what throws has added nothing.
    template <class Begin>
    void add(InFlightChunk chunk, Begin begin) {
        chunks_.push_back(std::move(chunk));
        try {
            listen(chunks_.back());
            begin();
        } catch (...) {
            chunks_.pop_back();
            throw;
        }
        window_.submit(chunks_.back().items);
        ++count_;
    }
    // The next items cannot be had, or sent. If there is no memory even to keep that, it throws,
    // and the input ends there.
    void fail(std::size_t items, std::exception_ptr error);
    // The same, for the pool takes no more.
    void refuse(std::size_t items, std::exception_ptr error);
    // It comes before all others, and what is left (of items: or none) behind it. Both, or none.
    void put_back(InFlightChunk chunk, InFlightChunk rest);

    // Nothing more comes. (A stream that is at its end may know that at the next look only.)
    bool ended() const { return input_ended_ && chunks_.empty() && !open_.has_item(); }
    bool next_is_ready() const;
    // Until the next chunk can be opened. False: it did not come in time, or the stream ends early.
    bool wait_for_next(const Deadline& until);
    // For what wake() is told. False: nothing came in time.
    bool wait_for_wake(const Deadline& until);
    // Opens the oldest chunk, or, unordered, the first that is done; waits for it.
    void open_next();

    // Of one that looks ahead.
    bool found_failure();
    bool is_over() const { return early_ && (failed_ || early_->is_over()); }
    // What comes last of a stream that is_over(); nothing if nobody wants to know.
    std::optional<FailedItem> end_early();
    // Ends the stream here: what waits is taken back, what runs is stopped.
    void cancel();
    // From now on another thread may end the stream: it sets this, and wakes who waits.
    std::shared_ptr<std::atomic<bool>> make_cancel_flag();
    // The error of an item that is not finished at the deadline.
    FailedItem late(std::uint64_t item, std::uint64_t task) const;

  private:
    void listen(const InFlightChunk& chunk);
    void cancel_waiting();

    std::unique_ptr<ChunkTasks> tasks_;
    UnfinishedItem callable_;
    ChunkWindow window_;
    std::unique_ptr<EarlyEnd> early_;
    std::optional<FailedItem> failed_;  // found out of turn
    std::shared_ptr<CompletionQueue> wake_;
    InFlightChunks chunks_;
    std::size_t count_ = 0;  // of chunks_: is looked at for each item, which size() is slow for
    OpenChunk open_;
    bool unordered_;
    bool input_ended_ = false;
    bool cancelled_ = false;  // ended early
};

}  // namespace sidestep::detail
