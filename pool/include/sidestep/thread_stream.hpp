// The results of ThreadPool's imap and imap_unordered: as stream.hpp, without serialization.
//
// What runs in a thread cannot be stopped. A stream that ends early (MapOptions::fail_fast and
// deadline, cancel()) takes back what waits, and asks what runs to stop (this_task): of a chunk
// that runs, no other item is begun.
//
// Items are copied; those that cannot be are moved out of a range that was moved in.
// Threads: one thread. The callable is copied for each chunk.
// Errors:  std::invalid_argument for retries of items that cannot be copied.
#pragma once

#include <algorithm>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <tuple>
#include <typeinfo>
#include <utility>
#include <vector>

#include <sidestep/detail/chunk.hpp>
#include <sidestep/detail/completion_queue.hpp>
#include <sidestep/detail/early_end.hpp>
#include <sidestep/detail/stored.hpp>
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
    using Outcomes = std::vector<Outcome<Result>>;

    struct Held {  // so that bools are not packed
        Item value;
    };

    F f;
    std::vector<Held> items;
    std::size_t first;
    TaskOptions options;
    bool stops_at_error = false;  // nobody wants what comes after it

    Outcomes operator()() {
        Outcomes outcomes;
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
                    if (retry_here(options.retry, context.attempt, error)) continue;
                    outcomes.emplace_back(first + i, std::move(error));
                    break;
                }
            }
        }
        duration_ns->store(steady_now_ns() - begin, std::memory_order_relaxed);
        return outcomes;
    }
    std::shared_ptr<std::atomic<std::uint64_t>> duration_ns =
        std::make_shared<std::atomic<std::uint64_t>>(0);

  private:
    // The item stays as it is while it may be run again.
    Outcome<Result> run(Item& item, std::size_t index) {
        if constexpr (kCopies<Item>) {
            if (task_context()->attempt < options.retry.max_attempts) {
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

}  // namespace detail

template <class F, class Range, bool kSpread, bool kUnordered>
class ThreadStream
    : public StreamFace<ThreadStream<F, Range, kSpread, kUnordered>,
                        typename detail::ThreadChunk<
                            kSpread, F,
                            detail::KeptItem<kSpread, F,
                                             std::ranges::range_value_t<
                                                 std::remove_reference_t<Range>>>>::Result> {
    using Item =
        detail::KeptItem<kSpread, F, std::ranges::range_value_t<std::remove_reference_t<Range>>>;
    using Chunk = detail::ThreadChunk<kSpread, F, Item>;
    using Outcomes = typename Chunk::Outcomes;
    using Job = detail::CallJob<Outcomes, Chunk>;
    using Face = StreamFace<ThreadStream<F, Range, kSpread, kUnordered>, typename Chunk::Result>;

  public:
    using typename Face::Result;

    ThreadStream(std::shared_ptr<detail::ThreadPoolCore> core, F f, Range&& items,
                 const MapOptions& options, unsigned threads)
        : core_(std::move(core)),
          f_(std::move(f)),
          input_(std::forward<Range>(items)),
          options_(detail::merged(options.task, default_options(*core_))),
          // A timeout is each item's: then each is a task.
          window_(options_.timeout.count() > 0 ? 1 : options.chunksize, options.window,
                  input_.size(), threads) {
        static_assert(
            detail::kCopies<Item> || kTakesItems,
            "these items cannot be copied: move the container of them into the map or stream");
        detail::check_map(*core_, options);
        if constexpr (!detail::kCopies<Item>) detail::refuse_retries(options_.retry);
        early_ = detail::EarlyEnd::of(options);
    }
    ThreadStream(ThreadStream&&) = default;
    ThreadStream& operator=(ThreadStream&&) = delete;
    ~ThreadStream() { cancel_rest(); }

    // The next outcome; nothing at the end, or if it has not come at `until`.
    std::optional<Outcome<Result>> next_outcome(const detail::Deadline& until = {}) {
        for (;;) {
            if (next_ < open_.size()) return next_open();
            fill(until);
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
    // As those of a Stream.
    bool ended() const { return input_ended_ && flying_.empty() && next_ == open_.size(); }
    void cancel() {
        input_ended_ = cancelled_ = true;
        cancel_rest();
        flying_.clear();
        next_ = open_.size();
    }
    void add(typename detail::Input<Range>::Item item) requires detail::Input<Range>::kGrows {
        if (cancelled_) return;
        input_.add(std::move(item));
        window_.grow();
        input_ended_ = false;
    }

    // For StreamFace.
    std::shared_ptr<void> hold() { return detail::hold_open(core_); }
    void hands_over_at_end() { wake_ = nullptr; }
    std::size_t input_size() { return input_.size(); }
    template <class Results>
    void read_rest(Results&) {}
    // For PoolFace: it is consumed in the background. All of the input becomes tasks now. What is
    // returned ends it, in any thread.
    std::function<void()> detach() {
        hands_over_at_end();
        while (!input_ended_) submit_chunk(window_.next_size());
        std::vector<detail::TaskRef> tasks;
        for (const Flying& chunk : flying_)
            if (chunk.task) tasks.push_back(chunk.task);
        return [tasks = std::move(tasks)] {  // from the last to the first, as cancel_rest()
            std::for_each(tasks.rbegin(), tasks.rend(), [](const auto& task) { task->cancel(); });
        };
    }

  private:
    struct Flying {
        detail::TaskRef task;  // or none:
        std::size_t first = 0, items = 0;
        std::exception_ptr error;  // the input's, or the pool's:
        bool last = false;         //   it refused them, nothing comes after
        std::shared_ptr<std::atomic<std::uint64_t>> duration_ns = {};
    };
    // The range gives its items away: it makes them, or was moved in.
    static constexpr bool kMakesItems =
        !std::is_lvalue_reference_v<decltype(std::declval<detail::Input<Range>&>().take())>;
    static constexpr bool kTakesItems =
        kMakesItems || (!std::is_reference_v<Range> && !std::ranges::view<Range>);

    // Whether the input is pulled beside the results that are handed over, or may block them.
    static constexpr bool kMayBlock = detail::Input<Range>::kMayBlock;
    static std::shared_ptr<detail::CompletionQueue> make_wake() {
        return kMayBlock ? std::make_shared<detail::CompletionQueue>() : nullptr;
    }
    bool pulls_beside() const { return kMayBlock && wake_; }
    void fill(const detail::Deadline& until) {
        bool may_wait = !until && !early_;
        while (!input_ended_ && window_.has_room(flying_.size())) {
            if (early_ && (found_failure() || early_->is_over())) return;
            std::size_t most = window_.next_size();
            if (pulls_beside()) most = input_.await(most, may_wait && flying_.empty());
            if (most == 0) return;
            submit_chunk(most);
        }
    }
    bool waits_for_input() const { return pulls_beside() && !input_ended_; }
    bool next_is_ready() const {
        auto is_ready = [](const Flying& c) { return !c.task || c.task->done(); };
        if constexpr (kUnordered) return std::any_of(flying_.begin(), flying_.end(), is_ready);
        return !flying_.empty() && is_ready(flying_.front());
    }
    detail::Deadline end_of(const detail::Deadline& until) const {
        return early_ ? detail::sooner(until, early_->deadline) : until;
    }
    // For a result, or more of the input, which no stream that is over takes. False: none in time.
    bool wait_for_either(const detail::Deadline& until) {
        if (early_ && early_->is_over()) return false;
        if (window_.has_room(flying_.size())) input_.go_on(window_.next_size(), wake_);
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
        const detail::TaskRef& next = flying_.front().task;
        if (!next || (kUnordered && std::any_of(flying_.begin(), flying_.end(), is_there_now)))
            return true;
        if (kUnordered) return done_->wait(end_of(until));
        if (!looks_ahead()) return next->wait(end_of(until));
        while (!next->done())
            if (!done_->wait(end_of(until)) || found_failure()) return false;
        return true;
    }

    // An item's error ends the stream before it is the item's turn.
    bool looks_ahead() const { return !kUnordered && early_ && early_->fail_fast; }
    bool found_failure() {
        if (!looks_ahead() || failed_) return failed_.has_value();
        while (auto first = done_->pop()) {
            auto at = std::find_if(flying_.begin(), flying_.end(),
                                   [&](const Flying& c) { return c.first == *first; });
            if (at != flying_.end() && (failed_ = failure_in(*at))) return true;
        }
        return false;
    }
    static std::optional<Outcome<Result>> failure_in(const Flying& chunk) {
        if (auto error = chunk.task->error()) return {{chunk.first, std::move(error)}};
        for (const Outcome<Result>& outcome : *static_cast<const Outcomes*>(chunk.task->value()))
            if (!outcome) return {{outcome.index(), outcome.error()}};
        return {};
    }
    std::optional<Outcome<Result>> next_open() {
        window_.take(1);
        Outcome<Result> outcome = std::move(open_[next_++]);
        if (early_ && early_->fail_fast && !outcome) cancel();
        return outcome;
    }
    // What comes last of a stream that ends early.
    std::optional<Outcome<Result>> end_early() {
        std::optional<Outcome<Result>> last = std::move(failed_);
        failed_.reset();
        if (!last) last.emplace(unfinished_item());
        cancel();
        return last;
    }
    Outcome<Result> unfinished_item() {
        detail::UnfinishedItem where{window_.submitted(), 0, detail::function_address(f_),
                                     typeid(F).name(), true};
        for (const Flying& chunk : flying_)
            if (chunk.task && !chunk.task->done() && chunk.first < where.item)
                where.item = chunk.first;
        return {where.item, detail::deadline_error(where, early_->limit)};
    }
    // From the last to the first: what runs may end at once, and what comes next would be begun.
    void cancel_rest() {
        for (auto chunk = flying_.rbegin(); chunk != flying_.rend(); ++chunk)
            if (chunk->task) chunk->task->cancel();
    }

    void pull_item(std::vector<typename Chunk::Held>& items) {
        if constexpr (detail::kCopies<Item> || kMakesItems)
            items.push_back({static_cast<Item>(input_.take())});
        else
            items.push_back({static_cast<Item>(std::move(input_.take()))});
    }

    void submit_chunk(std::size_t most) {
        std::size_t first = window_.submitted();
        Chunk chunk{f_, {}, first, options_, early_ && early_->fail_fast};
        [[maybe_unused]] detail::PullTimer timer(kMayBlock);
        std::exception_ptr error;
        try {
            while (chunk.items.size() < most && !input_ended_) {
                if constexpr (kMayBlock) {
                    std::size_t count = chunk.items.size();
                    if (count > 0 && !pulls_beside() && timer.is_over(count)) break;
                }
                if (input_.has_item())
                    pull_item(chunk.items);
                else
                    input_ended_ = true;
            }
        } catch (...) {
            detail::pass_on_forced_unwind();
            error = std::current_exception();
            input_ended_ = true;
        }
        if (!chunk.items.empty()) send(std::move(chunk));
        if (error) fly({{}, window_.submitted(), 1, error});
    }
    void send(Chunk chunk) {
        std::size_t first = chunk.first, count = chunk.items.size();
        detail::TaskRef task;
        auto duration = chunk.duration_ns;
        try {
            auto job = Job::make(std::move(chunk));
            task = detail::task_of(*job);
            TaskOptions whole = options_;
            whole.retry = {.max_attempts = 1};  // items are, by themselves
            detail::submit_job(*core_, std::move(job), &whole, true);
        } catch (...) {  // the pool takes no more
            input_ended_ = true;
            return fly({{}, first, count, std::current_exception(), true});
        }
        fly({std::move(task), first, count, {}, false, std::move(duration)});
    }
    void fly(Flying chunk) {
        if ((kUnordered || looks_ahead()) && chunk.task && !chunk.task->listen(done_, chunk.first))
            done_->add(chunk.first);
        if (pulls_beside() && chunk.task && !chunk.task->listen(wake_, 0)) wake_->add(0);
        window_.submit(chunk.items);
        flying_.push_back(std::move(chunk));
    }

    // Unordered: what needs no waiting first.
    Flying next_chunk() {
        auto at = flying_.begin();
        if constexpr (kUnordered) {
            at =
                std::find_if(at, flying_.end(), [](const Flying& c) { return !c.task && !c.last; });
            if (at == flying_.end()) at = flying_.begin();
            if (at->task) {
                (void)done_->wait({});
                std::size_t first = *done_->pop();
                at = std::find_if(flying_.begin(), flying_.end(),
                                  [&](const Flying& c) { return c.first == first; });
            }
        }
        Flying chunk = std::move(*at);
        flying_.erase(at);
        return chunk;
    }
    void open_next_chunk() {
        Flying chunk = next_chunk();
        open_.clear();
        next_ = 0;
        std::exception_ptr error = chunk.error;
        if (chunk.task) {
            chunk.task->wait({});
            error = chunk.task->error();
        }
        if (!error) {
            window_.completed(chunk.items, chunk.duration_ns->load(std::memory_order_relaxed));
            open_ = std::move(*static_cast<Outcomes*>(const_cast<void*>(chunk.task->value())));
            return;
        }
        for (std::size_t i = 0; i < chunk.items; ++i) open_.emplace_back(chunk.first + i, error);
    }

    std::shared_ptr<detail::ThreadPoolCore> core_;
    F f_;
    detail::Input<Range> input_;
    TaskOptions options_;
    detail::ChunkWindow window_;
    std::unique_ptr<detail::EarlyEnd> early_;  // null: it has none
    std::optional<Outcome<Result>> failed_;    // found out of turn
    // Unordered, or looks_ahead(): by their first items.
    std::shared_ptr<detail::CompletionQueue> done_ = std::make_shared<detail::CompletionQueue>();
    std::deque<Flying> flying_;
    // Told of what is done and what was pulled; null: results are handed over at the end.
    std::shared_ptr<detail::CompletionQueue> wake_ = make_wake();
    Outcomes open_;
    std::size_t next_ = 0;  // in open_
    bool input_ended_ = false;
    bool cancelled_ = false;  // ended early
};

}  // namespace sidestep
