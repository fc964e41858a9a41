#include <sidestep/detail/pool_chunks.hpp>

#include <algorithm>

namespace sidestep::inline v0::detail {
namespace {

PoolTask& pool_task(const TaskRef& task) { return static_cast<PoolTask&>(*task); }

}  // namespace

PoolChunkTasks::PoolChunkTasks(std::shared_ptr<PoolCore> core, const MapOptions& options,
                               bool unordered)
    : core_(std::move(core)), unordered_(unordered) {
    check_map(*core_, options);
    if (options.task.says_anything()) options_ = std::make_unique<TaskOptions>(options.task);
    if (unordered || options.fail_fast) sink_ = std::make_unique<TaskSink>(core_);
}

bool PoolChunkTasks::wait(TaskState& front, const EarlyEnd* early, const Deadline& until) {
    auto wakes = [&] {  // with the pool's mutex held
        return (sink_ && !sink_->empty()) || (!unordered_ && front.done()) ||
               (early && early->is_cancelled());
    };
    return front.wait_until(wakes, until);
}

InFlightChunks::iterator PoolChunkTasks::next_done(InFlightChunks& chunks) {
    PoolTaskRef done = sink_->next();
    return std::find_if(chunks.begin(), chunks.end(),
                        [&](const InFlightChunk& each) { return each.task.get() == done.get(); });
}

std::optional<FailedItem> PoolChunkTasks::next_failure(const InFlightChunks&) {
    while (PoolTaskRef done = sink_->try_next())
        if (auto failure = failure_in(*done)) return failure;
    return {};
}

void PoolChunkTasks::cancel(TaskState& task, bool running_too) {
    static_cast<PoolTask&>(task).cancel_parts(running_too);
}

void PoolChunkTasks::describe(const InFlightChunk& chunk, UnfinishedItem& where) const {
    where.item = pool_task(chunk.task).first_unfinished();
    where.task = pool_task(chunk.task).serial;
}

std::function<void()> PoolChunkTasks::detach(InFlight& flight) {
    return [core = core_, cancelled = flight.make_cancel_flag()] {
        cancelled->store(true, std::memory_order_relaxed);
        look_again(*core);
    };
}

void PoolChunkTasks::send(InFlight& flight, PoolTaskRef task, std::size_t count,
                          std::size_t last_at) {
    std::exception_ptr error = write(flight, *task, count, scratch_.size());
    if (!error) return submit(flight, std::move(task), count);
    // If there is no room, it is the last item that is large (see kMostBytes).
    if (last_at > 0 && !write(flight, *task, count - 1, last_at)) {
        submit(flight, std::move(task), count - 1);
        count = 1;
    }
    flight.fail(count, std::move(error));
}

// Writes the first of the pulled items, which take so many bytes. Null, or why it cannot.
std::exception_ptr PoolChunkTasks::write(InFlight& flight, PoolTask& task, std::size_t count,
                                         std::size_t bytes) {
    try {
        TaskWriter writer(task);
        OutputArchive archive(writer, &writer);
        save_callable(archive);
        bool stops = flight.early() && flight.early()->fail_fast && !task.runs_items_again();
        std::uint64_t items = count;
        archive(stops ? items | kStopsAtError : items,
                static_cast<std::uint64_t>(flight.window().submitted()));
        archive.write(scratch_.begin(), bytes);
        return nullptr;
    } catch (...) {
        return std::current_exception();
    }
}

void PoolChunkTasks::submit(InFlight& flight, PoolTaskRef task, std::size_t count) {
    std::size_t first = flight.window().submitted();
    try {
        task->set_chunk(static_cast<std::uint32_t>(count), first);
        flight.add({PoolTaskRef(task), first, count},
                   [&] { PoolTask::submit(task, sink_.get(), true); });
    } catch (...) {
        flight.refuse(count, std::current_exception());
    }
}

void PoolChunkTasks::open(InFlight& flight) {
    OpenChunk& open = flight.open();
    if (!open.task) return;
    const PoolTask& task = pool_task(open.task);
    try {
        if (!reader_) reader_ = std::make_unique<ChunkReader>();
        reader_->open(task.result(), open.items);
        if (task.split())
            take_split(flight, *task.split());
        else
            flight.window().completed(open.items, task.duration_ns());
    } catch (...) {  // the whole chunk failed: each of its items did
        open.error = std::current_exception();
    }
}

// A chunk that was ended by one of its items: that one comes next, and the rest after it.
void PoolChunkTasks::take_split(InFlight& flight, const PoolTask::Split& split) {
    OpenChunk& open = flight.open();
    std::size_t done = pool_task(open.task).items_done();
    std::size_t item = open.first + done;
    InFlightChunk rest;
    if (split.rest) rest = {PoolTaskRef(split.rest), item + 1, open.items - done - 1};
    flight.put_back({PoolTaskRef(split.again), item, 1, split.error}, std::move(rest));
    open.items = done;
}

PoolTaskRef PoolChunkTasks::open_task(InFlight& flight) {
    PoolTask& task = pool_task(flight.open().task);
    task.add_reference();
    return PoolTaskRef(&task);
}

bool PoolChunkTasks::finish(InFlight& flight, PoolTask& task) {
    const EarlyEnd* early = flight.early();
    if (!early) return task.wait({});
    (void)task.wait_until([&] { return task.done() || early->is_cancelled(); }, early->deadline);
    if (task.done()) return true;
    task.cancel_parts(true);
    flight.cancel();
    return false;
}

}  // namespace sidestep::detail
