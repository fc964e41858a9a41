// What imap and imap_unordered return, of a Pool and of a ThreadPool: stream.hpp says what it does.
// Internal.
#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <typeinfo>
#include <utility>

#include <sidestep/detail/chunk.hpp>
#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/in_flight.hpp>
#include <sidestep/outcome.hpp>
#include <sidestep/pool_options.hpp>

namespace sidestep::inline v0::detail {

// Internal: it pulls the input, sends it off in chunks, and hands over what comes of each item.
//
// Chunks is a ChunkTasks that knows what is in a chunk. It has
//   Batch                     a chunk while it is pulled: keep(item), size(), is_full(), and
//                             send(flight), which makes it a task
//   kKeepsSpans               it has keep_span(items), too, of kLongestSpan at most
//   open(flight)              the open chunk is done, and will be read
//   read(flight, at)          what became of its `at`-th item; once, in their order
//   read_rest(count, results) takes its last items, if none failed; how many it took
//   chunksize(options)        the user's, or 0
//   callable()                for messages
//   hold()                    while the result lives, join() waits
//   detach(flight)            what ends the stream from another thread
//   kInThreads                whether it is a ThreadPool
//
// Range: a reference for a range that was passed as an lvalue, else the range's type.
// Threads: one thread.
template <class Chunks, class Range>
class StreamEngine : public StreamFace<StreamEngine<Chunks, Range>, typename Chunks::Result> {
    using Face = StreamFace<StreamEngine, typename Chunks::Result>;
    using Batch = typename Chunks::Batch;

  public:
    using typename Face::Result;

    struct Run {           // Internal.
        unsigned workers;  // of the pool
        bool unordered;    // results are handed over as they come
    };
    template <class Core, class F>  // Internal.
    StreamEngine(const std::shared_ptr<Core>& core, F&& f, Range&& items, const MapOptions& options,
                 Run run)
        : StreamEngine(std::make_unique<Chunks>(core, std::forward<F>(f), options, run.unordered),
                       std::forward<Range>(items), options, run) {}
    StreamEngine(StreamEngine&&) = default;
    StreamEngine& operator=(StreamEngine&&) = delete;
    ~StreamEngine() = default;

    // The next outcome; nothing at the end, or if it has not come at `until`.
    std::optional<Outcome<Result>> next_outcome(const Deadline& until = {}) {
        for (;;) {
            if (!flight_.open().has_item()) leave_chunk();
            fill(until);
            if (flight_.open().has_item()) return next_item();
            if (flight_.ended()) return {};
            if (flight_.found_failure()) return end_early();
            if (waits_for_input() && !flight_.next_is_ready()) {
                if (wait_for_either(until)) continue;
            } else if (flight_.wait_for_next(until)) {
                flight_.open_next();
                chunks_.open(flight_);
                continue;
            }
            if (flight_.is_over()) return end_early();
            return {};
        }
    }
    // Nothing more comes. (A stream that is at its end may know that at the next look only.)
    bool ended() const { return flight_.ended(); }
    // Ends the stream here: what waits is taken back, what runs is stopped.
    void cancel() { flight_.cancel(); }

    // One more item, after those that the input has. A stream that was at its end goes on; one that
    // was ended early does not.
    void add(typename Input<Range>::Item item) requires Input<Range>::kGrows {
        if (flight_.expect_item()) input_.add(std::move(item));
    }

    // What was written to stdout and stderr by the chunk of the item that came last: by that item
    // alone with chunksize = 1. Where the item failed by what befell its worker, its error has that
    // (TaskError::output()). Empty if PoolOptions::output does not capture it.
    TaskOutput output() const {
        const TaskRef& task = flight_.open().task;
        const TaskOutput* output = task ? task->output() : nullptr;
        return output ? *output : TaskOutput();
    }

    // Internal, for PoolFace: it is consumed in the background, until what is returned is called.
    std::function<void()> detach() {
        if constexpr (Chunks::kInThreads) {  // all of the input becomes tasks now
            hands_over_at_end();
            while (!flight_.input_ended()) send_chunk(flight_.window().next_size());
        }
        return chunks_.detach(flight_);
    }
    // Internal, for StreamFace.
    std::shared_ptr<void> hold() { return chunks_.hold(); }
    void hands_over_at_end() { flight_.hand_over_at_end(); }  // Internal.
    std::size_t input_size() { return input_.size(); }
    template <class Results>  // Internal.
    void read_rest(Results& results) {
        OpenChunk& open = flight_.open();
        if (open.has_item() && !open.error)
            take(chunks_.read_rest(open.items - open.next, results));
    }

  private:
    StreamEngine(std::unique_ptr<Chunks> chunks, Range&& items, const MapOptions& options, Run run)
        : chunks_(*chunks),
          input_(std::forward<Range>(items)),
          flight_(std::move(chunks),
                  {input_.size(), run.workers, run.unordered, kMayBlock, chunks_.callable()},
                  options, chunks_.chunksize(options)) {}

    static constexpr bool kMayBlock = Input<Range>::kMayBlock;

    // Whether the input is pulled beside the results that are handed over, or may block them.
    bool pulls_beside() const { return kMayBlock && flight_.wake(); }
    bool waits_for_input() const { return pulls_beside() && !flight_.input_ended(); }

    void fill(const Deadline& until) {
        while (!flight_.input_ended() && flight_.has_room()) {
            if (flight_.early() && (flight_.found_failure() || flight_.is_over())) return;
            std::size_t most = flight_.window().next_size();
            bool nothing_else =
                flight_.chunks().empty() && flight_.open().items == 0 && !until && !flight_.early();
            if (pulls_beside()) most = input_.await(most, nothing_else);
            if (most == 0) return;
            send_chunk(most);
        }
    }
    // Pulls the next items, `most` at most, and sends them off as one task.
    void send_chunk(std::size_t most) {
        Batch batch(chunks_);
        std::exception_ptr error = pull(batch, most);
        if (batch.size() > 0) batch.send(flight_);
        if (error) flight_.fail(1, std::move(error));
    }
    // Null, or the error of the item behind those that the batch has.
    std::exception_ptr pull(Batch& batch, std::size_t most) {
        [[maybe_unused]] PullTimer timer(kMayBlock);
        try {
            if constexpr (Chunks::kKeepsSpans && Input<Range>::kIsContiguous) {
                most = std::min(most, Chunks::kLongestSpan);
                auto items = input_.take_span(most);
                batch.keep_span(items);
                if (items.size() < most && !input_.has_added()) flight_.end_input();
                if (!items.empty() || flight_.input_ended()) return nullptr;
            }
            while (batch.size() < most && !batch.is_full()) {
                if constexpr (kMayBlock)
                    if (batch.size() > 0 && !pulls_beside() && timer.is_over(batch.size())) break;
                if (!input_.has_item()) {
                    flight_.end_input();
                    break;
                }
                auto&& item = input_.take();
                try {
                    batch.keep(std::forward<decltype(item)>(item));
                } catch (...) {  // that item's error alone
                    pass_on_forced_unwind();
                    return std::current_exception();
                }
            }
        } catch (...) {
            pass_on_forced_unwind();
            flight_.end_input();
            return std::current_exception();
        }
        return nullptr;
    }
    // For a result, or more of the input, which no stream that is over takes. False: none in time.
    bool wait_for_either(const Deadline& until) {
        if (flight_.is_over()) return false;
        if (flight_.has_room()) input_.go_on(flight_.window().next_size(), flight_.wake());
        bool came = flight_.wait_for_wake(until);
        input_.rest();
        return came;
    }

    void leave_chunk() {
        if (flight_.open().items > 0) flight_.open() = {};
    }
    void take(std::size_t items) {
        flight_.open().next += items;
        flight_.window().take(items);
    }
    Outcome<Result> next_item() {
        const OpenChunk& open = flight_.open();
        std::size_t at = open.next;
        take(1);
        Outcome<Result> outcome =
            open.error ? Outcome<Result>(open.first + at, open.error) : chunks_.read(flight_, at);
        if (!outcome && flight_.early() && flight_.early()->fail_fast) flight_.cancel();
        return outcome;
    }
    std::optional<Outcome<Result>> end_early() {
        std::optional<FailedItem> last = flight_.end_early();
        if (!last) return {};
        return Outcome<Result>(last->index, std::move(last->error));
    }

    Chunks& chunks_;  // flight_ owns them
    Input<Range> input_;
    InFlight flight_;
};

}  // namespace sidestep::detail
