// Stream: the results of imap and imap_unordered, an input range that is pulled.
//
//     for (const Row& row : pool.imap(parse, lines)) use(row);
//
// Items are taken from the input only as the stream is advanced, and no more than the window are
// between input and consumer, however long the input is. Leaving the loop early cancels what no
// worker has begun.
//
// An input may pause, or wait for the results of what it gave before: results are handed over as
// they are there, and items are sent off within a millisecond. So an input that is neither a
// container nor a span nor an iota is pulled by a thread of the stream, in turn with the consumer:
// while that waits in the stream, or beside it as long as one item takes more than a millisecond.
// Leaving the loop early waits for that item. (map() and starmap() pull in the calling thread.)
//
// Results that make items: the input may grow while it is passed through.
//
//     auto pages = pool.imap_unordered(fetch, std::vector{start});
//     for (const Page& page : pages)
//         for (const std::string& link : page.links) pages.add(link);
//
// Errors: advancing to an item that failed throws its error, and the stream can go on: catch inside
//         the loop is not possible, so use outcomes() to see each item's value or error. An item
//         whose `serialize` throws, on either side, or for which there is no room, is that item's
//         error; so is a result that cannot be read back. An input iterator that throws is the
//         error of the item it stood for, and ends the input.
// The pool's end: a stream that was made before close() goes on until join() (or ~Pool) finds
//         nothing under way: a map() that runs is waited for, a stream that nobody reads is not.
//         After terminate() nothing more is begun. When the pool takes no more, what was under way
//         comes first; then come the items that were refused, with the reason (CancelledError after
//         terminate(), BrokenPool, or std::logic_error), and that is the end of the stream.
// Ownership: a Stream refers to a range that was passed as an lvalue, and owns one that was moved
//         in. It is moved, not copied, before its first use. It may outlive its pool.
// Threads: one thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include <sidestep/detail/chunk.hpp>
#include <sidestep/detail/chunk_results.hpp>
#include <sidestep/detail/completion_queue.hpp>
#include <sidestep/detail/early_end.hpp>
#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/pool_task.hpp>
#include <sidestep/detail/stored.hpp>
#include <sidestep/outcome.hpp>
#include <sidestep/pool_options.hpp>

namespace sidestep::inline v0 {

// Range: a reference for a range that was passed as an lvalue, else the range's type.
template <class F, class Range, bool kSpread, bool kUnordered>
class Stream
    : public StreamFace<
          Stream<F, Range, kSpread, kUnordered>,
          typename detail::Chunk<
              kSpread, F,
              detail::StoredItem<
                  kSpread, std::ranges::range_value_t<std::remove_reference_t<Range>>>>::Result> {
    using Item =
        detail::StoredItem<kSpread, std::ranges::range_value_t<std::remove_reference_t<Range>>>;
    using Body = detail::Chunk<kSpread, F, Item>;
    using Face = StreamFace<Stream, typename Body::Result>;
    template <class T>
    static constexpr bool kIsNumber = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

  public:
    using typename Face::Result;
    using typename Face::Value;

    Stream(std::shared_ptr<detail::PoolCore> core, F f, Range&& items, const MapOptions& options,
           unsigned workers)
        : core_(std::move(core)),
          f_(std::move(f)),
          input_(std::forward<Range>(items)),
          window_(options.chunksize, options.window, input_.size(), workers) {
        detail::check_map(*core_, options);
        if (options.task.says_anything()) options_ = std::make_unique<TaskOptions>(options.task);
        early_ = detail::EarlyEnd::of(options);
        if (kUnordered || options.fail_fast) sink_ = std::make_unique<detail::TaskSink>(core_);
    }
    Stream(Stream&&) = default;
    Stream& operator=(Stream&&) = delete;
    ~Stream() { cancel_rest(); }

    // The next outcome; nothing at the end, or if it has not come at `until`.
    std::optional<Outcome<Result>> next_outcome(const detail::Deadline& until = {}) {
        for (;;) {
            if (open_ && open_->next == open_->items) open_.reset();
            fill(until);
            if (open_) {
                Outcome<Result> outcome = read_item();
                if (early_ && early_->fail_fast && !outcome) cancel();
                return outcome;
            }
            if (ended()) return {};
            if (found_failure()) return end_early();
            if (waits_for_input() && !next_is_ready()) {
                if (wait_for_either(until)) continue;
            } else if (wait_for_chunk(until)) {
                open_next_chunk();
                continue;
            }
            if (early_ && (failed_ || early_->is_over())) return end_early();
            return {};
        }
    }
    // Nothing more comes. (A stream that is at its end may know that at the next look only.)
    bool ended() const {
        return input_ended_ && flying_.empty() && (!open_ || open_->next == open_->items);
    }
    // Ends the stream here: what waits is taken back, what runs is stopped.
    void cancel() {
        input_ended_ = cancelled_ = true;
        cancel_rest();  // first, or the workers would begin with what waits
        for (Flying& chunk : flying_)
            if (chunk.task) chunk.task->cancel_parts(true);
        flying_.clear();
        if (open_) open_->next = open_->items;
    }

    // One more item, after those that the input has. A stream that was at its end goes on; one that
    // was ended early does not.
    void add(typename detail::Input<Range>::Item item) requires detail::Input<Range>::kGrows {
        if (cancelled_) return;
        input_.add(std::move(item));
        window_.grow();
        input_ended_ = false;
    }

    // What was written to stdout and stderr by the chunk of the item that came last: by that item
    // alone with chunksize = 1. Where the item failed by what befell its worker, its error has that
    // (TaskError::output()). Empty if PoolOptions::output does not capture it.
    TaskOutput output() const {
        const TaskOutput* output = open_ && open_->task ? open_->task->output() : nullptr;
        return output ? *output : TaskOutput();
    }

    // For PoolFace: it is consumed in the background, until what is returned is called.
    std::function<void()> detach() {
        if (!early_) early_ = std::make_unique<detail::EarlyEnd>(MapOptions());
        early_->cancelled = std::make_shared<std::atomic<bool>>(false);
        return [core = core_, cancelled = early_->cancelled] {
            cancelled->store(true, std::memory_order_relaxed);
            detail::look_again(*core);
        };
    }
    // For StreamFace.
    std::shared_ptr<void> hold() { return detail::hold_open(core_); }
    void hands_over_at_end() { wake_ = nullptr; }
    std::size_t input_size() { return input_.size(); }
    // The rest of an open chunk without errors, without an Outcome for each.
    template <class Results>
    void read_rest(Results& results) {
        if (!open_ || open_->error || open_->reader.has_errors()) return;
        if constexpr (kIsNumber<Value>) {
            std::size_t count = open_->items - open_->next;
            if (open_->reader.values().remaining() != count * sizeof(Value)) return;
            std::size_t old = results.size();
            results.resize(old + count);
            open_->reader.values().read(results.data() + old, count * sizeof(Value));
            open_->next += count;
            window_.take(count);
        }
    }

  private:
    struct Flying {
        detail::PoolTaskRef task;  // or none:
        std::size_t first = 0, items = 0;
        std::exception_ptr error;  // of items that could not be had or sent
        bool last = false;         // the pool refused them: nothing comes after
    };
    struct Open {
        detail::PoolTaskRef task;
        detail::ChunkReader reader;
        std::exception_ptr error;  // of the chunk as a whole
        std::size_t first = 0, items = 0, next = 0;
    };

    static std::shared_ptr<detail::CompletionQueue> make_wake() {
        return kMayBlock ? std::make_shared<detail::CompletionQueue>() : nullptr;
    }
    // Whether the input is pulled beside the results that are handed over, or may block them.
    static constexpr bool kMayBlock = detail::Input<Range>::kMayBlock;
    bool pulls_beside() const { return kMayBlock && wake_; }
    bool has_room() const { return window_.has_room(flying_.size() + (open_ ? 1 : 0)); }
    void fill(const detail::Deadline& until) {
        while (!input_ended_ && has_room()) {
            if (early_ && (found_failure() || early_->is_over())) return;
            std::size_t most = window_.next_size();
            bool nothing_else = flying_.empty() && !open_ && !until && !early_;
            if (pulls_beside()) most = input_.await(most, nothing_else);
            if (most == 0) return;
            submit_chunk(most);
        }
    }
    bool waits_for_input() const { return pulls_beside() && !input_ended_; }
    bool next_is_ready() {
        auto is_ready = [](const Flying& c) { return !c.task || c.task->poll(); };
        if constexpr (kUnordered) return std::any_of(flying_.begin(), flying_.end(), is_ready);
        return !flying_.empty() && is_ready(flying_.front());
    }
    detail::Deadline end_of(const detail::Deadline& until) const {
        return early_ ? detail::sooner(until, early_->deadline) : until;
    }
    // For a result, or more of the input, which no stream that is over takes. False: none in time.
    bool wait_for_either(const detail::Deadline& until) {
        if (early_ && early_->is_over()) return false;
        if (has_room()) input_.go_on(window_.next_size(), wake_);
        bool came = wake_->wait(end_of(until));
        while (wake_->pop()) {
        }
        input_.rest();
        return came;
    }
    // Until the next chunk can be opened. False: it did not come in time, or the stream ends early.
    bool wait_for_chunk(const detail::Deadline& until) {
        if (flying_.empty()) return false;
        if (!early_ && !until) return true;  // it is waited for when it is opened
        auto is_there_now = [](const Flying& c) { return !c.task && !c.last; };
        if (!flying_.front().task ||
            (kUnordered && std::any_of(flying_.begin(), flying_.end(), is_there_now)))
            return true;
        detail::PoolTask& task = *flying_.front().task;
        auto wakes = [&] {  // with the pool's mutex held
            return (sink_ && !sink_->empty()) || (!kUnordered && task.done()) ||
                   (early_ && early_->is_cancelled());
        };
        for (;;) {
            bool awake = task.wait_until(wakes, end_of(until));
            if (found_failure()) return false;
            if (!awake || (early_ && early_->is_cancelled())) return false;
            if (kUnordered || task.done()) return true;
        }
    }

    // An item's error ends the stream before it is the item's turn.
    bool looks_ahead() const { return !kUnordered && early_ && early_->fail_fast; }
    bool found_failure() {
        if (!looks_ahead() || failed_) return failed_.has_value();
        while (detail::PoolTaskRef done = sink_->try_next())
            if ((failed_ = detail::failure_in<Result>(*done))) return true;
        return false;
    }
    // What comes last of a stream that ends early; nothing if nobody wants to know.
    std::optional<Outcome<Result>> end_early() {
        std::optional<Outcome<Result>> last = std::move(failed_);
        failed_.reset();
        if (!last && !early_->is_cancelled()) last.emplace(unfinished_item());
        cancel();
        return last;
    }
    Outcome<Result> unfinished_item() {
        std::uint64_t item = window_.submitted(), task = 0;
        for (const Flying& chunk : flying_) {
            if (!chunk.task || chunk.first >= item || chunk.task->poll()) continue;
            item = chunk.task->first_unfinished();
            task = chunk.task->serial;
        }
        return late(item, task);
    }
    Outcome<Result> late(std::uint64_t item, std::uint64_t task) {
        return {item,
                detail::deadline_error({item, task, detail::function_address(f_), typeid(F).name()},
                                       early_->limit)};
    }

    // Serializes the next items, at most `most` of them; how many it got. Their descriptors go
    // with the task.
    std::uint64_t pull_items(detail::PoolTask& task, std::size_t most) {
        static constexpr std::size_t kMostBytes = std::size_t(1) << 20;
        OutputArchive items(scratch_, task.fds());
        std::uint64_t count = 0;
        [[maybe_unused]] detail::PullTimer timer(kMayBlock);
        try {
            if constexpr (kIsNumber<Item> && detail::Input<Range>::kIsContiguous) {
                most = std::min(most, kMostBytes / sizeof(Item));
                auto next = input_.take_span(most);
                items.write(next.data(), next.size_bytes());  // as each of them would be
                input_ended_ = next.size() < most && !input_.has_added();
                if (!next.empty() || input_ended_) return next.size();
            }
            while (count < most && scratch_.size() < kMostBytes) {
                if constexpr (kMayBlock)
                    if (count > 0 && !pulls_beside() && timer.is_over(count)) break;
                if (!input_.has_item()) {
                    input_ended_ = true;
                    break;
                }
                auto&& item = input_.take();
                std::size_t mark = scratch_.size();
                try {
                    detail::save_sized<Item>(items, detail::stored_as<Item>(item));
                } catch (...) {  // that item's error alone
                    detail::pass_on_forced_unwind();
                    scratch_.truncate(mark);
                    item_error_ = std::current_exception();
                    break;
                }
                last_at_ = mark;
                ++count;
            }
        } catch (...) {
            detail::pass_on_forced_unwind();
            item_error_ = std::current_exception();
            input_ended_ = true;
        }
        return count;
    }

    // Pulls the next items, `most` at most, and sends them off as one task.
    void submit_chunk(std::size_t most) {
        scratch_.clear();
        last_at_ = 0;
        detail::PoolTaskRef task =
            detail::PoolTask::create(core_, detail::task_kind<Body>(f_), options_.get());
        std::uint64_t count = pull_items(*task, most);
        if (count > 0) send(std::move(task), count);
        if (item_error_) fail(1, std::exchange(item_error_, nullptr));
    }
    void send(detail::PoolTaskRef task, std::uint64_t count) {
        std::exception_ptr error = write_chunk(*task, count, scratch_.size());
        if (!error) return submit(std::move(task), count);
        // If there is no room, it is the last item that is large (see kMostBytes).
        if (last_at_ > 0 && !write_chunk(*task, count - 1, last_at_)) {
            submit(std::move(task), count - 1);
            count = 1;
        }
        fail(count, std::move(error));
    }
    // Writes the first of the pulled items, which take so many bytes. Null, or why it cannot.
    std::exception_ptr write_chunk(detail::PoolTask& task, std::uint64_t count, std::size_t bytes) {
        try {
            detail::TaskWriter writer(task);
            OutputArchive archive(writer, &writer);
            detail::save_callable<F>(archive, f_);
            bool stops = early_ && early_->fail_fast && !task.runs_items_again();
            archive(stops ? count | detail::kStopsAtError : count,
                    static_cast<std::uint64_t>(window_.submitted()));
            archive.write(scratch_.begin(), bytes);
            return nullptr;
        } catch (...) {
            return std::current_exception();
        }
    }
    void submit(detail::PoolTaskRef task, std::uint64_t count) {
        std::size_t first = window_.submitted();
        try {
            task->set_chunk(static_cast<std::uint32_t>(count), first);
            detail::PoolTask::submit(task, sink_.get(), true);
        } catch (...) {  // the pool takes no more
            input_ended_ = true;
            return fail(count, std::current_exception(), true);
        }
        fly({std::move(task), first, static_cast<std::size_t>(count), {}});
    }
    void fail(std::uint64_t count, std::exception_ptr error, bool last = false) {
        fly({{}, window_.submitted(), static_cast<std::size_t>(count), std::move(error), last});
    }
    void fly(Flying chunk) {
        listen(chunk.task);
        window_.submit(chunk.items);
        flying_.push_back(std::move(chunk));
    }

    void listen(const detail::PoolTaskRef& task) {
        if (pulls_beside() && task && !task->listen(wake_, 0)) wake_->add(0);
    }

    // Unordered: what needs no waiting first.
    Flying next_chunk() {
        auto at = flying_.begin();
        if constexpr (kUnordered) {
            at =
                std::find_if(at, flying_.end(), [](const Flying& c) { return !c.task && !c.last; });
            if (at == flying_.end()) at = flying_.begin();
            if (at->task) {
                detail::PoolTaskRef done = sink_->next();
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
            if (open_->task->split())
                take_split(*open_->task->split());
            else
                window_.completed(open_->items, open_->task->duration_ns());
        } catch (...) {  // the whole chunk failed: each of its items did
            open_->error = std::current_exception();
        }
    }

    // A chunk that was ended by one of its items: that one comes next, and the rest after it.
    void take_split(const detail::PoolTask::Split& split) {
        std::size_t done = open_->task->items_done();
        std::size_t item = open_->first + done;
        listen(split.rest);
        listen(split.again);
        if (split.rest) flying_.push_front({split.rest, item + 1, open_->items - done - 1, {}});
        flying_.push_front({split.again, item, 1, split.error});
        open_->items = done;
    }

    Outcome<Result> read_item() {
        std::size_t at = open_->next++;
        window_.take(1);
        std::size_t index = open_->first + at;
        if (open_->error) return {index, open_->error};
        try {
            if (auto error = open_->reader.next_error(at)) return retried(at, std::move(error));
            return {index, detail::read_value<Result>(open_->reader)};
        } catch (...) {
            return {index, std::current_exception()};
        }
    }

    // An item that threw is run again, here and now, if its options say so.
    Outcome<Result> retried(std::size_t at, std::exception_ptr error) {
        detail::PoolTaskRef task = open_->task;
        auto outcome =
            detail::run_again<Result>(task, static_cast<std::uint32_t>(at), std::move(error),
                                      [this](detail::PoolTask& again) { return finish(again); });
        return outcome ? std::move(*outcome) : late(open_->first + at, task->serial);
    }

    // False: the stream ends before that, and the task with it.
    bool finish(detail::PoolTask& task) {
        if (!early_) return task.wait({});
        (void)task.wait_until([&] { return task.done() || early_->is_cancelled(); },
                              early_->deadline);
        if (task.done()) return true;
        task.cancel_parts(true);
        cancel();
        return false;
    }

    // From the last to the first: what comes next is not begun meanwhile.
    void cancel_rest() {
        for (auto chunk = flying_.rbegin(); chunk != flying_.rend(); ++chunk)
            if (chunk->task) chunk->task->cancel_parts(false);
    }

    std::shared_ptr<detail::PoolCore> core_;
    F f_;
    detail::Input<Range> input_;
    detail::ChunkWindow window_;
    std::unique_ptr<TaskOptions> options_;     // null: the pool's
    std::unique_ptr<detail::EarlyEnd> early_;  // null: it has none
    std::unique_ptr<detail::TaskSink> sink_;   // unordered, or looks_ahead()
    std::optional<Outcome<Result>> failed_;    // found out of turn
    std::deque<Flying> flying_;
    std::unique_ptr<Open> open_;
    // Told of what is done and pulled; null: results are handed over at the end.
    std::shared_ptr<detail::CompletionQueue> wake_ = make_wake();
    detail::HeapBuffer scratch_;     // the items just pulled
    std::size_t last_at_ = 0;        // where the last of them begins; 0: it is alone, or a number
    std::exception_ptr item_error_;  // of the item behind them
    bool input_ended_ = false;
    bool cancelled_ = false;  // ended early
};

}  // namespace sidestep
