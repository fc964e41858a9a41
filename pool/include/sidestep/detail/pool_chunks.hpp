// The chunks of a Pool's stream: items and results are bytes (chunk.hpp). Internal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <typeinfo>
#include <utility>

#include <sidestep/detail/chunk.hpp>
#include <sidestep/detail/chunk_results.hpp>
#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/in_flight.hpp>
#include <sidestep/detail/pool_task.hpp>
#include <sidestep/detail/stored.hpp>
#include <sidestep/outcome.hpp>

namespace sidestep::inline v0::detail {

// How a Pool runs the chunks of a stream, whatever is in them.
class PoolChunkTasks : public ChunkTasks {
  public:
    // A chunk's arguments take so much, and its last item.
    static constexpr std::size_t kMostBytes = std::size_t(1) << 20;

    bool wait(TaskState& front, const EarlyEnd* early, const Deadline& until) override;
    InFlightChunks::iterator next_done(InFlightChunks& chunks) override;
    std::optional<FailedItem> next_failure(const InFlightChunks& chunks) override;
    void cancel(TaskState& task, bool running_too) override;
    void describe(const InFlightChunk& chunk, UnfinishedItem& where) const override;

    // See StreamEngine.
    void open(InFlight& flight);
    std::function<void()> detach(InFlight& flight);
    std::shared_ptr<void> hold() { return hold_open(core_); }

  protected:
    PoolChunkTasks(std::shared_ptr<PoolCore> core, const MapOptions& options, bool unordered);

    // A chunk that is pulled: its items are in scratch().
    PoolTaskRef create(const TaskKind& kind) const {
        return PoolTask::create(core_, kind, options_.get());
    }
    HeapBuffer& scratch() { return scratch_; }
    // Sends it off. last_at: where the last item begins; 0: it is alone, or a number.
    void send(InFlight& flight, PoolTaskRef task, std::size_t count, std::size_t last_at);
    // Waits for a task that runs an item again. False: the stream ends before that, and the task
    // with it.
    static bool finish(InFlight& flight, PoolTask& task);
    static PoolTaskRef open_task(InFlight& flight);
    ChunkReader& reader() { return *reader_; }  // of the open chunk

    virtual void save_callable(OutputArchive& archive) const = 0;
    virtual std::optional<FailedItem> failure_in(const PoolTask& task) const = 0;

  private:
    void submit(InFlight& flight, PoolTaskRef task, std::size_t count);
    std::exception_ptr write(InFlight& flight, PoolTask& task, std::size_t count,
                             std::size_t bytes);
    void take_split(InFlight& flight, const PoolTask::Split& split);

    std::shared_ptr<PoolCore> core_;
    std::unique_ptr<TaskOptions> options_;  // null: the pool's
    std::unique_ptr<TaskSink> sink_;        // of an unordered stream, or one that looks ahead
    std::unique_ptr<ChunkReader> reader_;
    HeapBuffer scratch_;
    bool unordered_;
};

// The items and results of one type.
template <bool kSpread, class F, class Item>
class PoolChunks final : public PoolChunkTasks {
    using Body = Chunk<kSpread, F, Item>;
    template <class T>
    static constexpr bool kIsNumber = std::is_arithmetic_v<T> && !std::is_same_v<T, bool>;

  public:
    using Result = typename Body::Result;
    using Value = typename Outcome<Result>::Value;
    // Several items that lie side by side in memory are kept at once.
    static constexpr bool kKeepsSpans = kIsNumber<Item>;
    static constexpr std::size_t kLongestSpan = kMostBytes / sizeof(Item);
    static constexpr bool kInThreads = false;

    PoolChunks(std::shared_ptr<PoolCore> core, F f, const MapOptions& options, bool unordered)
        : PoolChunkTasks(std::move(core), options, unordered), f_(std::move(f)) {}

    static std::size_t chunksize(const MapOptions& options) { return options.chunksize; }
    UnfinishedItem callable() const {
        return {0, 0, function_address(f_), typeid(F).name(), kInThreads};
    }

    // The next chunk, while it is pulled. Its descriptors go with the task.
    class Batch {
      public:
        explicit Batch(PoolChunks& chunks)
            : chunks_(chunks),
              task_(chunks.create(task_kind<Body>(chunks.f_))),
              items_(cleared(chunks.scratch()), task_->fds()) {}
        std::size_t size() const { return count_; }
        bool is_full() const { return chunks_.scratch().size() >= kMostBytes; }
        template <class T>
        void keep(const T& item) {
            std::size_t mark = chunks_.scratch().size();
            try {
                save_sized<Item>(items_, stored_as<Item>(item));
            } catch (...) {
                chunks_.scratch().truncate(mark);
                throw;
            }
            last_at_ = mark;
            ++count_;
        }
        template <class T>
        void keep_span(std::span<T> items) {
            items_.write(items.data(), items.size_bytes());  // as each of them would be
            count_ += items.size();
        }
        void send(InFlight& flight) { chunks_.send(flight, std::move(task_), count_, last_at_); }

      private:
        static HeapBuffer& cleared(HeapBuffer& buffer) {
            buffer.clear();
            return buffer;
        }

        PoolChunks& chunks_;
        PoolTaskRef task_;
        OutputArchive items_;
        std::size_t count_ = 0;
        std::size_t last_at_ = 0;
    };

    Outcome<Result> read(InFlight& flight, std::size_t at) {
        std::size_t index = flight.open().first + at;
        try {
            if (reader().has_errors())
                if (auto error = reader().next_error(at))
                    return retried(flight, at, std::move(error));
            return {index, read_value<Result>(reader())};
        } catch (...) {
            return {index, std::current_exception()};
        }
    }
    // The rest of an open chunk without errors, without an Outcome for each.
    template <class Results>
    std::size_t read_rest(std::size_t count, Results& results) {
        if constexpr (kIsNumber<Value>) {
            if (reader().has_errors() || reader().values().remaining() != count * sizeof(Value))
                return 0;
            std::size_t old = results.size();
            results.resize(old + count);
            reader().values().read(results.data() + old, count * sizeof(Value));
            return count;
        }
        return 0;
    }

  private:
    void save_callable(OutputArchive& archive) const override {
        detail::save_callable<F>(archive, f_);
    }
    std::optional<FailedItem> failure_in(const PoolTask& task) const override {
        return detail::failure_in<Result>(task);
    }
    // An item that threw is run again, here and now, if its options say so.
    Outcome<Result> retried(InFlight& flight, std::size_t at, std::exception_ptr error) {
        PoolTaskRef task = open_task(flight);
        auto outcome =
            run_again<Result>(task, static_cast<std::uint32_t>(at), std::move(error),
                              [&flight](PoolTask& again) { return finish(flight, again); });
        if (outcome) return std::move(*outcome);
        FailedItem late = flight.late(flight.open().first + at, task->serial);
        return {late.index, std::move(late.error)};
    }

    F f_;
};

}  // namespace sidestep::detail
