// map_reduce(): a worker merges the results of a chunk of items, and others merge what came of two
// chunks that lie side by side. Internal.
//
// What came of a chunk travels from task to task as bytes: this process does not decode it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <iterator>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <ranges>
#include <span>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include <sidestep/detail/chunk.hpp>
#include <sidestep/detail/completion_queue.hpp>
#include <sidestep/detail/early_end.hpp>
#include <sidestep/detail/result_reader.hpp>
#include <sidestep/detail/stored.hpp>
#include <sidestep/future.hpp>
#include <sidestep/outcome.hpp>
#include <sidestep/this_task.hpp>

namespace sidestep::inline v0::detail {

// What came of some items: the value where it was made, its bytes elsewhere.
template <class R>
class Partial {
  public:
    Partial() = default;
    explicit Partial(R value) : value_(std::move(value)) {}

    R take() {
        if (value_) return std::move(*value_);
        InputArchive archive(bytes_);
        R value = make_blank<R>();
        load_sized(archive, value);
        return value;
    }
    void save(OutputArchive& archive) const requires Travels<R> {
        std::uint64_t size = bytes_.size();
        archive(duration_ns);
        if (!value_) {
            archive(size);
            return archive.write(bytes_.data(), bytes_.size());
        }
        OutputBuffer& buffer = archive.buffer();
        std::size_t at = buffer.size();
        archive(size);
        save_sized<R>(archive, *value_);
        size = buffer.size() - at - sizeof size;
        std::memcpy(buffer.begin() + at, &size, sizeof size);
    }
    void load(InputArchive& archive) requires Travels<R> {
        archive(duration_ns);
        std::span<const std::byte> bytes = view_sized(archive);
        bytes_.assign(bytes.begin(), bytes.end());
    }

    std::uint64_t duration_ns = 0;

  private:
    std::optional<R> value_;
    std::vector<std::byte> bytes_;
};

// Items on their way to a worker.
template <class Item>
struct ItemBatch {
    std::deque<Item> items;
    std::uint64_t first = 0;  // its place in the input

    void save(OutputArchive& archive) const requires Travels<Item> {
        archive(first, static_cast<std::uint64_t>(items.size()));
        for (const Item& item : items) save_sized<Item>(archive, item);
    }
    void load(InputArchive& archive) requires Travels<Item> {
        std::uint64_t count = 0;
        archive(first, count);
        for (; count > 0; --count) {
            items.push_back(make_blank<Item>());
            load_sized(archive, items.back());
        }
    }
};

// The items that a task has among its arguments: how many, and the first one's place in the input.
template <class T>
inline constexpr bool kIsItemBatch = false;
template <class Item>
inline constexpr bool kIsItemBatch<ItemBatch<Item>> = true;

// What says that it can be copied whatever is in it (future.hpp).
template <class R>
inline constexpr bool kCopies<Partial<R>> = kCopies<R>;
template <class Item>
inline constexpr bool kCopies<ItemBatch<Item>> = kCopies<Item>;

// Whether a map_reduce can be: looked at before anything of it is compiled.
template <bool kInThreads, class F, class Op, class Range>
struct ReduceCheck {
    using Callable = std::decay_t<F>;
    using Merge = std::decay_t<Op>;
    using Item = StoredItem<false, std::ranges::range_value_t<std::remove_reference_t<Range>>>;
    template <bool kCan, class = void>
    struct ResultIf {
        using type = void;
    };
    template <class Unused>
    struct ResultIf<true, Unused> {
        using type = std::decay_t<std::invoke_result_t<Callable&, Item&&>>;
    };
    static constexpr bool kCalled = std::is_invocable_v<Callable&, Item&&>;
    using Result = typename ResultIf<kCalled>::type;

    static constexpr bool travel() {
        if constexpr (kInThreads)
            return true;
        else
            return TaskCheck<Callable, Item>::kFine && why_no_call<Merge>() == Why::fine;
    }
    static constexpr bool merges() {
        if constexpr (std::is_void_v<Result>)
            return false;
        else
            return std::is_invocable_v<Merge&, Result, Result>;
    }
    static constexpr bool kFine = kCalled && travel() && merges();

    static constexpr void check() {
        if constexpr (!kInThreads) {
            TaskCheck<Callable, Item>::check();
            Check<why_no_call<Merge>(), Merge>::check();
        } else {
            static_assert(kCalled, "the callable cannot be called with these items");
        }
        if constexpr (kCalled && travel())
            static_assert(merges(),
                          "map_reduce(f, op, items): op cannot be called with two results of f, "
                          "which it merges into one (parameters by value, const& or &&)");
    }
};

template <class R, class Op>
R merged_by(Op& op, R a, R b) {
    return static_cast<R>(std::invoke(op, std::move(a), std::move(b)));
}

// The tasks.
template <class R, class F, class Op, class Item>
struct ReduceItems {
    F f{};
    Op op{};

    Partial<R> operator()(ItemBatch<Item> batch) {
        std::uint64_t begin = steady_now_ns();
        TaskContext& context = *task_context();
        context.items_end = static_cast<std::uint32_t>(batch.items.size());
        context.tells_item = true;
        std::optional<R> all;
        for (std::size_t i = 0; i < batch.items.size(); ++i) {
            if (context.stop_requested()) std::rethrow_exception(ended_item_error());
            context.item = batch.first + i;
            R value(std::invoke(f, std::move(batch.items[i])));
            if (all) value = merged_by<R>(op, *std::exchange(all, std::nullopt), std::move(value));
            all.emplace(std::move(value));
            if (context.progress) context.progress->tell(ChunkProgress::pack(i + 1, 0));
        }
        context.tells_item = false;
        Partial<R> result(std::move(*all));
        result.duration_ns = steady_now_ns() - begin;
        return result;
    }
    void save(OutputArchive& archive) const requires TaskCallable<F> && TaskCallable<Op> {
        save_bound(archive, f);
        save_bound(archive, op);
    }
    void load(InputArchive& archive) requires TaskCallable<F> && TaskCallable<Op> {
        load_bound(archive, f);
        load_bound(archive, op);
    }
};
template <class R, class Op>
struct MergeTwo {
    Op op{};

    Partial<R> operator()(Partial<R> a, Partial<R> b) {
        return Partial<R>(merged_by<R>(op, a.take(), b.take()));
    }
    void save(OutputArchive& archive) const requires TaskCallable<Op> { save_bound(archive, op); }
    void load(InputArchive& archive) requires TaskCallable<Op> { load_bound(archive, op); }
};

// One map_reduce. What comes of the input is a list of pieces in its order: each is made by a task,
// or there. Two that lie side by side and are there become one that is made.
//
// Threads: one thread.
template <class R, class F, class Op, class Range>
class MapReduce {
    using Item = StoredItem<false, std::ranges::range_value_t<std::remove_reference_t<Range>>>;

  public:
    struct Where {
        unsigned workers = 1;
        bool of_threads = false;
    };
    MapReduce(F f, Op op, Range&& items, const MapOptions& options, Where where)
        : f_(std::move(f)),
          op_(std::move(op)),
          input_(std::forward<Range>(items)),
          early_(options),
          of_threads_(where.of_threads),
          options_(options.task.says_anything() ? &options.task : nullptr),
          window_(options.chunksize, options.window, input_.size(), where.workers) {}

    void begin_with(R value) { pieces_.emplace_back().made.emplace(std::move(value)); }

    // submit(options, callable, arguments...) runs one task. Nothing: there was no item.
    template <class Submit>
    std::optional<R> run(const Submit& submit) {
        try {
            for (;;) {
                pull(submit);
                if (under_way_.empty()) break;
                collect(wait(), submit);
            }
            if (pieces_.empty()) return {};
            return pieces_.front().made->take();
        } catch (...) {
            cancel();
            throw;
        }
    }

  private:
    struct Piece {
        std::optional<Partial<R>> made;
        Future<Partial<R>> task;           // or that makes it
        std::size_t first = 0, items = 0;  // of the input; no items: it is of two pieces
    };
    using Place = typename std::list<Piece>::iterator;

    template <class Submit>
    void pull(const Submit& submit) {
        while (!input_ended_ && window_.has_room(under_way_.size())) {
            if (is_over(early_.deadline)) throw_late();
            ItemBatch<Item> batch = next_batch();
            if (batch.items.empty()) return;
            Place piece = pieces_.emplace(pieces_.end());
            piece->first = static_cast<std::size_t>(batch.first);
            piece->items = batch.items.size();
            window_.submit(piece->items);
            start(piece, submit, ReduceItems<R, F, Op, Item>{f_, op_}, std::move(batch));
        }
    }
    ItemBatch<Item> next_batch() {
        ItemBatch<Item> batch;
        batch.first = window_.submitted();
        std::size_t most = window_.next_size();
        PullTimer timer(Input<Range>::kMayBlock);
        while (batch.items.size() < most && !input_ended_) {
            if (Input<Range>::kMayBlock && !batch.items.empty() &&
                timer.is_over(batch.items.size()))
                break;
            if (!input_.has_item())
                input_ended_ = true;
            else if constexpr (kCopies<Item>)
                batch.items.push_back(stored_as<Item>(input_.take()));
            else
                batch.items.push_back(static_cast<Item>(std::move(input_.take())));
        }
        return batch;
    }
    template <class Submit, class Callable, class... Args>
    void start(Place piece, const Submit& submit, Callable callable, Args&&... arguments) {
        piece->task = submit(options_, std::move(callable), std::forward<Args>(arguments)...);
        under_way_.emplace(++started_, piece);
        if (!piece->task.state()->listen(done_, started_)) done_->add(started_);
    }

    // For a task that is done; whose piece it makes.
    Place wait() {
        const TaskRef any = under_way_.begin()->second->task.state();
        if (any->owner())
            (void)any->wait_until([this] { return !done_->empty(); }, early_.deadline);
        else
            (void)done_->wait(early_.deadline);
        std::optional<std::size_t> number = done_->pop();
        if (!number) throw_late();
        return under_way_.extract(*number).mapped();
    }
    template <class Submit>
    void collect(Place piece, const Submit& submit) {
        piece->made.emplace(result_of_task(*piece->task.state()));
        piece->task = {};
        if (piece->items > 0) {
            window_.take(piece->items);
            window_.completed(piece->items, piece->made->duration_ns);
        }
        if (piece != pieces_.begin() && std::prev(piece)->made)
            merge(std::prev(piece), piece, submit);
        else if (std::next(piece) != pieces_.end() && std::next(piece)->made)
            merge(piece, std::next(piece), submit);
    }
    template <class Submit>
    void merge(Place a, Place b, const Submit& submit) {
        Partial<R> left = std::move(*std::exchange(a->made, std::nullopt));
        Partial<R> right = std::move(*b->made);
        pieces_.erase(b);
        a->items = 0;
        start(a, submit, MergeTwo<R, Op>{op_}, std::move(left), std::move(right));
    }
    // Nobody else has the future: a value that is here is taken.
    static Partial<R> result_of_task(const TaskState& task) {
        if (const void* here = task.value())
            return std::move(*static_cast<Partial<R>*>(const_cast<void*>(here)));
        if constexpr (ResultReader<Partial<R>>::kReads)
            return ResultReader<Partial<R>>::read(task.result());
        else
            throw_empty_future();
    }

    // From the last to the first: what waits is not begun meanwhile.
    void cancel() noexcept {
        for (auto piece = pieces_.rbegin(); piece != pieces_.rend(); ++piece)
            if (piece->task.valid()) (void)piece->task.cancel();
    }
    [[noreturn]] void throw_late() {
        UnfinishedItem where{window_.submitted(), 0, function_address(f_), typeid(F).name(),
                             of_threads_};
        auto first_of = [&](bool chunks) {
            return std::find_if(pieces_.begin(), pieces_.end(), [&](const Piece& piece) {
                return !piece.made && (piece.items > 0) == chunks;
            });
        };
        Place at = first_of(true);
        if (at == pieces_.end()) at = first_of(false);
        if (at != pieces_.end()) where.item = at->first;
        std::rethrow_exception(deadline_error(where, early_.limit));
    }

    F f_;
    Op op_;
    Input<Range> input_;
    const EarlyEnd early_;
    const bool of_threads_;
    const TaskOptions* const options_;  // null: the pool's
    ChunkWindow window_;
    std::list<Piece> pieces_;
    std::map<std::size_t, Place> under_way_;  // by the number of their start
    std::size_t started_ = 0;
    std::shared_ptr<CompletionQueue> done_ = std::make_shared<CompletionQueue>();
    bool input_ended_ = false;
};

}  // namespace sidestep::detail
