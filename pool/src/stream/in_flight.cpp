#include <sidestep/detail/in_flight.hpp>

#include <algorithm>
#include <utility>

namespace sidestep::inline v0::detail {
namespace {

// An unordered stream hands it over before what is waited for.
bool is_error_now(const InFlightChunk& chunk) { return !chunk.task && !chunk.last; }

Deadline end_of(const EarlyEnd* early, const Deadline& until) {
    return early ? sooner(until, early->deadline) : until;
}

}  // namespace

InFlight::InFlight(std::unique_ptr<ChunkTasks> tasks, const StreamShape& shape,
                   const MapOptions& options, std::size_t chunksize)
    : tasks_(std::move(tasks)),
      callable_(shape.callable),
      window_(chunksize, options.window, shape.items, shape.workers),
      early_(EarlyEnd::of(options)),
      wake_(shape.input_may_block ? std::make_shared<CompletionQueue>() : nullptr),
      unordered_(shape.unordered) {}

bool InFlight::expect_item() {
    if (cancelled_) return false;
    window_.grow();
    input_ended_ = false;
    return true;
}

void InFlight::fail(std::size_t items, std::exception_ptr error) {
    const bool has_ended = std::exchange(input_ended_, true);
    add({{}, window_.submitted(), items, std::move(error)}, [] {});
    input_ended_ = has_ended;
}

void InFlight::refuse(std::size_t items, std::exception_ptr error) {
    input_ended_ = true;
    add({{}, window_.submitted(), items, std::move(error), true}, [] {});
}

void InFlight::put_back(InFlightChunk chunk, InFlightChunk rest) {
    listen(chunk);
    listen(rest);
    const bool has_rest = rest.items > 0;
    if (has_rest) chunks_.push_front(std::move(rest));
    try {
        chunks_.push_front(std::move(chunk));
    } catch (...) {
        if (has_rest) chunks_.pop_front();
        throw;
    }
    count_ += has_rest ? 2 : 1;
}

void InFlight::listen(const InFlightChunk& chunk) {
    if (wake_ && chunk.task && !chunk.task->listen(wake_, 0)) wake_->add(0);
}

bool InFlight::next_is_ready() const {
    auto is_ready = [](const InFlightChunk& each) { return !each.task || each.task->poll(); };
    if (unordered_) return std::any_of(chunks_.begin(), chunks_.end(), is_ready);
    return !chunks_.empty() && is_ready(chunks_.front());
}

bool InFlight::wait_for_next(const Deadline& until) {
    if (chunks_.empty()) return false;
    if (!early_ && !until) return true;  // it is waited for when it is opened
    if (!chunks_.front().task) return true;
    if (unordered_ && std::any_of(chunks_.begin(), chunks_.end(), is_error_now)) return true;
    TaskState& front = *chunks_.front().task;
    for (;;) {
        bool awake = tasks_->wait(front, early_.get(), end_of(early_.get(), until));
        if (found_failure()) return false;
        if (!awake || (early_ && early_->is_cancelled())) return false;
        if (unordered_ || front.done()) return true;
    }
}

bool InFlight::wait_for_wake(const Deadline& until) {
    bool came = wake_->wait(end_of(early_.get(), until));
    while (wake_->pop()) {
    }
    return came;
}

void InFlight::open_next() {
    auto at = chunks_.begin();
    if (unordered_) {
        at = std::find_if(at, chunks_.end(), is_error_now);
        if (at == chunks_.end()) at = chunks_.begin();
        if (at->task) at = tasks_->next_done(chunks_);
    }
    open_ = {std::move(*at)};
    chunks_.erase(at);
    --count_;
    if (open_.task) open_.task->wait({});
}

bool InFlight::found_failure() {
    if (looks_ahead() && !failed_) failed_ = tasks_->next_failure(chunks_);
    return failed_.has_value();
}

std::optional<FailedItem> InFlight::end_early() {
    std::optional<FailedItem> last = std::exchange(failed_, std::nullopt);
    if (!last && !early_->is_cancelled()) {
        UnfinishedItem where;
        where.item = window_.submitted();
        for (const InFlightChunk& chunk : chunks_)
            if (chunk.task && chunk.first < where.item && !chunk.task->poll())
                tasks_->describe(chunk, where);
        last = late(where.item, where.task);
    }
    cancel();
    return last;
}

FailedItem InFlight::late(std::uint64_t item, std::uint64_t task) const {
    UnfinishedItem where = callable_;
    where.item = item;
    where.task = task;
    return {static_cast<std::size_t>(item), deadline_error(where, early_->limit)};
}

void InFlight::cancel() {
    input_ended_ = cancelled_ = true;
    cancel_waiting();  // first, or the workers would begin with what waits
    for (const InFlightChunk& chunk : chunks_)
        if (chunk.task) tasks_->cancel(*chunk.task, true);
    chunks_.clear();
    count_ = 0;
    open_.next = open_.items;
}

// From the last to the first: what comes next is not begun meanwhile.
void InFlight::cancel_waiting() {
    for (auto chunk = chunks_.rbegin(); chunk != chunks_.rend(); ++chunk)
        if (chunk->task) tasks_->cancel(*chunk->task, false);
}

std::shared_ptr<std::atomic<bool>> InFlight::make_cancel_flag() {
    if (!early_) early_ = std::make_unique<EarlyEnd>(MapOptions());
    early_->cancelled = std::make_shared<std::atomic<bool>>(false);
    return early_->cancelled;
}

}  // namespace sidestep::detail
