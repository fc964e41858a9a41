// The results of ThreadPool's imap and imap_unordered: as stream.hpp, without serialization.
//
// What runs in a thread cannot be stopped. A stream that ends early (MapOptions::fail_fast and
// deadline, cancel()) takes back what waits, and asks what runs to stop (this_task): of a chunk
// that runs, no other item is begun.
//
// Items are copied; those that cannot be are moved out of a range that was moved in.
// Threads: one thread. The callable is copied for each chunk.
// Errors:  an item whose copy constructor throws is that item's error alone. std::invalid_argument
//          for retries of items that cannot be copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <ranges>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include <sidestep/detail/chunk.hpp>
#include <sidestep/detail/completion_queue.hpp>
#include <sidestep/detail/early_end.hpp>
#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/in_flight.hpp>
#include <sidestep/detail/stored.hpp>
#include <sidestep/detail/stream_engine.hpp>
#include <sidestep/detail/thread_job.hpp>
#include <sidestep/future.hpp>
#include <sidestep/outcome.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/this_task.hpp>

namespace sidestep::inline v0 {

namespace detail {

// Some items of a map.
template <bool kSpread, class F, class Item>
struct ThreadChunk {
    using Result = typename ChunkResult<kSpread, F, Item>::type;
    struct Done {
        std::vector<Outcome<Result>> outcomes;  // of the items that were run, or refused
        std::uint64_t duration_ns = 0;
    };

    struct Held {  // so that bools are not packed
        Item value;
    };

    F f;
    Retry retry;
    std::vector<Held> items = {};
    std::size_t first = 0;
    bool stops_at_error = false;  // nobody wants what comes after it

    Done operator()() {
        Done done;
        auto& outcomes = done.outcomes;
        outcomes.reserve(items.size());
        TaskContext& context = *task_context();
        context.items_end = static_cast<std::uint32_t>(items.size());
        std::uint64_t begin = steady_now_ns();
        for (std::size_t i = 0; i < items.size(); ++i) {
            if (i > 0 && context.stop_requested()) {
                outcomes.emplace_back(first + i, ended_item_error());
                continue;
            }
            if (stops_at_error && i > 0 && !outcomes.back()) break;
            context.item = first + i;
            for (context.attempt = 1;; ++context.attempt) {
                try {
                    outcomes.push_back(run(items[i].value, first + i));
                    break;
                } catch (...) {
                    detail::pass_on_forced_unwind();
                    std::exception_ptr error = std::current_exception();
                    if (retry_here(retry, context.attempt, error)) continue;
                    outcomes.emplace_back(first + i, std::move(error));
                    break;
                }
            }
        }
        done.duration_ns = steady_now_ns() - begin;
        return done;
    }

  private:
    // The item stays as it is while it may be run again.
    Outcome<Result> run(Item& item, std::size_t index) {
        if constexpr (kCopies<Item>) {
            if (task_context()->attempt < retry.max_attempts) {
                Item copy(item);
                return call(copy, index);
            }
        }
        return call(item, index);
    }
    Outcome<Result> call(Item& item, std::size_t index) {
        auto invoke = [&]() -> decltype(auto) {
            if constexpr (kSpread)
                return std::apply(f, std::move(item));
            else
                return std::invoke(f, std::move(item));
        };
        if constexpr (std::is_void_v<Result>) {
            invoke();
            return {index, typename Outcome<Result>::Value{}};
        } else {
            return {index, Result(invoke())};
        }
    }
};

// How a ThreadPool runs the chunks of a stream, whatever is in them.
class ThreadChunkTasks : public ChunkTasks {
  public:
    bool wait(TaskState& front, const EarlyEnd* early, const Deadline& until) override;
    InFlightChunks::iterator next_done(InFlightChunks& chunks) override;
    std::optional<FailedItem> next_failure(const InFlightChunks& chunks) override;
    void cancel(TaskState& task, bool running_too) override;
    void describe(const InFlightChunk& chunk, UnfinishedItem& where) const override;

    // See StreamEngine.
    std::function<void()> detach(InFlight& flight);
    std::shared_ptr<void> hold() { return hold_open(core_); }
    // A timeout is each item's: then each is a task.
    std::size_t chunksize(const MapOptions& options) const {
        return options_.timeout.count() > 0 ? 1 : options.chunksize;
    }

  protected:
    ThreadChunkTasks(std::shared_ptr<ThreadPoolCore> core, const MapOptions& options,
                     bool unordered);

    const Retry& retry() const { return retry_; }
    void send(InFlight& flight, ThreadJobPtr job, std::size_t items);

    // In the outcomes of a task that came to its end.
    virtual std::optional<FailedItem> failure_in(const void* value) const = 0;

  private:
    std::shared_ptr<ThreadPoolCore> core_;
    Retry retry_;          // of items,
    TaskOptions options_;  //   not of their task
    // Of an unordered stream, or one that looks ahead: what is done, by its first item.
    std::shared_ptr<CompletionQueue> done_;
    bool unordered_;
};

// The items and results of one type.
template <bool kSpread, class F, class Item>
class ThreadChunks final : public ThreadChunkTasks {
    using Body = ThreadChunk<kSpread, F, Item>;
    using Done = typename Body::Done;

  public:
    using Result = typename Body::Result;
    static constexpr bool kKeepsSpans = false;
    static constexpr bool kInThreads = true;

    ThreadChunks(std::shared_ptr<ThreadPoolCore> core, F f, const MapOptions& options,
                 bool unordered)
        : ThreadChunkTasks(std::move(core), options, unordered), f_(std::move(f)) {
        if constexpr (!kCopies<Item>) refuse_retries(retry());
    }

    UnfinishedItem callable() const {
        return {0, 0, function_address(f_), typeid(F).name(), kInThreads};
    }

    // The next chunk, while it is pulled.
    class Batch {
      public:
        explicit Batch(ThreadChunks& chunks) : chunks_(chunks), body_{chunks.f_, chunks.retry()} {}
        std::size_t size() const { return body_.items.size(); }
        bool is_full() const { return false; }
        template <class T>
        void keep(T&& item) {
            if constexpr (kCopies<Item> || !std::is_lvalue_reference_v<T>)
                body_.items.push_back({static_cast<Item>(std::forward<T>(item))});
            else
                body_.items.push_back({static_cast<Item>(std::move(item))});
        }
        void send(InFlight& flight) {
            std::size_t items = size();
            body_.first = flight.window().submitted();
            body_.stops_at_error = flight.early() && flight.early()->fail_fast;
            ThreadJobPtr job;
            try {
                job = CallJob<Done, Body>::make(std::move(body_));
            } catch (...) {
                return flight.refuse(items, std::current_exception());
            }
            chunks_.send(flight, std::move(job), items);
        }

      private:
        ThreadChunks& chunks_;
        Body body_;
    };

    void open(InFlight& flight) {
        OpenChunk& open = flight.open();
        if (!open.task) return;
        open.error = open.task->error();
        if (open.error) return;
        done_ = static_cast<Done*>(const_cast<void*>(open.task->value()));
        flight.window().completed(open.items, done_->duration_ns);
        open.items = done_->outcomes.size();
    }
    Outcome<Result> read(InFlight&, std::size_t at) { return std::move(done_->outcomes[at]); }
    template <class Results>
    std::size_t read_rest(std::size_t, Results&) {
        return 0;
    }

  private:
    std::optional<FailedItem> failure_in(const void* value) const override {
        for (const Outcome<Result>& outcome : static_cast<const Done*>(value)->outcomes)
            if (!outcome) return FailedItem{outcome.index(), outcome.error()};
        return {};
    }

    F f_;
    Done* done_ = nullptr;  // the open chunk's, which keeps it
};

template <bool kSpread, class F, class Range>
using ItemOf = KeptItem<kSpread, F, std::ranges::range_value_t<std::remove_reference_t<Range>>>;

// What Input<Range>::take() gives can be moved: the range makes its items, or was moved in.
template <class Range>
inline constexpr bool kGivesItemsAway =
    !std::is_lvalue_reference_v<decltype(std::declval<Input<Range>&>().take())> ||
    (!std::is_reference_v<Range> && !std::ranges::view<Range>);

// Whether a ThreadPool's map can have the items of the range.
template <bool kSpread, class F, class Range>
inline constexpr bool kCanTakeItems = kCopies<ItemOf<kSpread, F, Range>> || kGivesItemsAway<Range>;

}  // namespace detail

template <class F, class Range, bool kSpread>
using ThreadStream =
    detail::StreamEngine<detail::ThreadChunks<kSpread, F, detail::ItemOf<kSpread, F, Range>>,
                         Range>;

}  // namespace sidestep
