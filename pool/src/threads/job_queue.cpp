#include "threads/job_queue.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

namespace sidestep::inline v0::detail {
namespace {

constexpr std::size_t kMostAtOnce = 64;  // jobs: some microseconds of work

}  // namespace

void JobQueue::put(ThreadJobPtr job, JobKey key, KeyedJobs& jobs) noexcept {
    KeyedJobs::node_type place = std::move(job->extra->place);
    place.key() = key;
    place.mapped() = std::move(job);
    jobs.insert(std::move(place));
}

void JobQueue::push_in_order(ThreadJobPtr job) noexcept {
    const JobKey key = job_key(job->extra->options.priority, job->number);
    put(std::move(job), key, waiting_);
}

void JobQueue::push_own(PoolThread& thread, ThreadJobPtr job) noexcept {
    const JobKey key = job_key(job->extra->options.priority, job->number);
    put(std::move(job), key, thread.own);
    ++keyed_;
}

void JobQueue::push_at_gate(ThreadJobPtr job) noexcept {
    TokenUse& use = *job->extra->tokens;
    use.priority = job->extra->options.priority;
    use.number = job->number;
    if (std::uint64_t sticky = job->extra->options.key)
        use.worker = static_cast<std::uint32_t>(pool_.index_of(sticky));
    use.over = job.get();
    put(std::move(job), key_of(use), at_gate_);
    gate_.wait(use);
}

bool JobQueue::give_next(PoolThread& thread, std::size_t sharers) {
    if (has_batches() && plain_.empty()) take_back_all();
    constexpr JobKey kNone{std::numeric_limits<std::int64_t>::max(), 0};
    const JobKey plain = plain_.empty() ? kNone : JobKey(0, plain_.first()->number);
    if (ThreadJobPtr job = take_first(thread, plain)) {
        thread.give(std::move(job));
        return true;
    }
    if (plain_.empty()) return false;
    const std::size_t count = batch(sharers);
    thread.has_batch = count > 1;
    batches_ += thread.has_batch;
    thread.give(plain_, count);
    return true;
}

// What comes before `plain` in this thread, and is none of those.
ThreadJobPtr JobQueue::take_first(PoolThread& thread, JobKey plain) noexcept {
    KeyedJobs& from = !thread.own.empty() && (waiting_.empty() ||
                                              thread.own.begin()->first < waiting_.begin()->first)
                          ? thread.own
                          : waiting_;
    TokenUse* gated = at_gate_.empty() ? nullptr : first_at_gate(thread.index);
    const bool has_more = !from.empty() && from.begin()->first < plain;
    if (gated && (key_of(*gated) < (has_more ? from.begin()->first : plain))) {
        gate_.take(*gated);
        return std::move(at_gate_.extract(key_of(*gated)).mapped());
    }
    if (!has_more) return nullptr;
    if (&from == &thread.own) --keyed_;
    return std::move(from.extract(from.begin()).mapped());
}

TokenUse* JobQueue::first_at_gate(unsigned index) noexcept {
    TokenUse* own = gate_.first(index);
    TokenUse* other = gate_.first(TokenUse::kAnyWorker);
    if (own && other) return own->comes_before(*other) ? own : other;
    return own ? own : other;
}

// How many of those that are plain a thread takes: T3, T4 (thread_team.cpp).
std::size_t JobQueue::batch(std::size_t sharers) const {
    if (sharers == 0 || keyed_ > 0 || !waiting_.empty() || !at_gate_.empty()) return 1;
    return std::clamp<std::size_t>(plain_.size() / sharers, 1, kMostAtOnce);
}

void JobQueue::take_back(PoolThread& thread) noexcept {
    if (!std::exchange(thread.has_batch, false)) return;
    plain_.merge(thread.take_back());
    --batches_;
}

void JobQueue::take_back_all() noexcept {
    if (batches_ == 0) return;
    for (auto& thread : pool_.threads)
        if (thread->has_batch) plain_.merge(thread->take_back());
}

void JobQueue::move_everything(Contents& to) noexcept {
    take_back_all();
    to.plain.merge(std::move(plain_));
    to.others.swap(waiting_);
    for (auto& thread : pool_.threads) to.others.merge(thread->own);
    keyed_ = 0;
    for (auto& [key, job] : at_gate_) gate_.forget(*job->extra->tokens);
    to.others.merge(at_gate_);
}

}  // namespace sidestep::detail
