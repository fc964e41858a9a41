#include <sidestep/thread_stream.hpp>

#include <algorithm>
#include <utility>

namespace sidestep::inline v0::detail {

ThreadChunkTasks::ThreadChunkTasks(std::shared_ptr<ThreadPoolCore> core, const MapOptions& options,
                                   bool unordered)
    : core_(std::move(core)),
      options_(merged(options.task, default_options(*core_))),
      unordered_(unordered) {
    check_map(*core_, options);
    retry_ = std::exchange(options_.retry, {.max_attempts = 1});
    if (unordered || options.fail_fast) done_ = std::make_shared<CompletionQueue>();
}

bool ThreadChunkTasks::wait(TaskState& front, const EarlyEnd*, const Deadline& until) {
    if (!done_) return front.wait(until);
    return (!unordered_ && front.done()) || done_->wait(until);
}

InFlightChunks::iterator ThreadChunkTasks::next_done(InFlightChunks& chunks) {
    (void)done_->wait({});
    std::size_t first = *done_->pop();
    return std::find_if(chunks.begin(), chunks.end(),
                        [&](const InFlightChunk& each) { return each.first == first; });
}

std::optional<FailedItem> ThreadChunkTasks::next_failure(const InFlightChunks& chunks) {
    while (auto first = done_->pop()) {
        auto at = std::find_if(chunks.begin(), chunks.end(),
                               [&](const InFlightChunk& each) { return each.first == *first; });
        if (at == chunks.end()) continue;
        if (auto error = at->task->error()) return FailedItem{at->first, std::move(error)};
        if (auto failure = failure_in(at->task->value())) return failure;
    }
    return {};
}

// What runs is asked to stop by the same call.
void ThreadChunkTasks::cancel(TaskState& task, bool running_too) {
    if (!running_too) (void)task.cancel();
}

void ThreadChunkTasks::describe(const InFlightChunk& chunk, UnfinishedItem& where) const {
    where.item = chunk.first;
}

std::function<void()> ThreadChunkTasks::detach(InFlight& flight) {
    std::vector<TaskRef> tasks;
    for (const InFlightChunk& chunk : flight.chunks())
        if (chunk.task) tasks.push_back(chunk.task);
    return [tasks = std::move(tasks)] {  // from the last to the first, as a stream's end does
        std::for_each(tasks.rbegin(), tasks.rend(), [](const TaskRef& task) { task->cancel(); });
    };
}

void ThreadChunkTasks::send(InFlight& flight, ThreadJobPtr job, std::size_t items) {
    std::size_t first = flight.window().submitted();
    TaskRef task = task_of(*job);
    try {
        flight.add({task, first, items}, [&] {
            if (done_) (void)task->listen(done_, first);  // before: it is not done
            submit_job(*core_, std::move(job), &options_, true);
        });
    } catch (...) {
        flight.refuse(items, std::current_exception());
    }
}

}  // namespace sidestep::detail
