// What waits until a thread of a ThreadPool can have it, and in which order.
#pragma once

#include <cstddef>
#include <vector>

#include <sidestep/pool_stats.hpp>

#include "sync/pool_mutex.hpp"
#include "task/token_gate.hpp"
#include "threads/job_extra.hpp"
#include "threads/job_list.hpp"
#include "threads/pool_thread.hpp"
#include "threads/thread_pool_state.hpp"

namespace sidestep::inline v0::detail {

// Jobs without options of their own wait in a list. Others wait by their priority: those that need
// tokens at their gate, those with a key beside the one thread that may run them (PoolThread::own).
// What a thread took and has not begun is there for others (take_back_all()).
class JobQueue {
  public:
    explicit JobQueue(ThreadPoolState& pool) : pool_(pool), gate_(pool.options.tokens) {}

    // Threads: thread-safe. Throws std::invalid_argument for tokens that the pool has not.
    TokenUsePtr wanted(const std::vector<Tokens>& uses) const { return gate_.wanted(uses); }
    // Gives a new job what its place will take, and what it says of tokens. Likewise.
    void prepare(JobExtra& job) const {
        KeyedJobs one;
        one.emplace();
        job.place = one.extract(one.begin());
        job.tokens = wanted(job.options.uses);
    }

    // A new job, behind its equals: one without an `extra`; one that has it, and was prepared; that
    // needs tokens; that this thread alone may run.
    void push(ThreadJobPtr job) noexcept POOL_LOCKED { plain_.push(std::move(job)); }
    void push_in_order(ThreadJobPtr job) noexcept POOL_LOCKED;
    void push_at_gate(ThreadJobPtr job) noexcept POOL_LOCKED;
    void push_own(PoolThread& thread, ThreadJobPtr job) noexcept POOL_LOCKED;

    // Jobs that wait for any thread.
    std::size_t ready() noexcept POOL_LOCKED {
        const bool gated = waits_at_gate() && gate_.first(TokenUse::kAnyWorker);
        return plain_.size() + waiting_.size() + gated;
    }
    bool waits_at_gate() const POOL_LOCKED { return !at_gate_.empty(); }
    std::size_t size() const POOL_LOCKED {  // but for what threads have
        return plain_.size() + waiting_.size() + at_gate_.size();
    }
    std::vector<TokenStats> token_stats() const POOL_LOCKED { return gate_.stats(); }

    // Gives the thread what comes next; false: there is nothing. sharers: if what comes next is
    // plain, and no others wait, it gets several, so that so many threads have their share; 0: one.
    bool give_next(PoolThread& thread, std::size_t sharers) POOL_LOCKED;
    // A job is through with its tokens.
    void give_back(TokenUse& use) noexcept POOL_LOCKED { gate_.give_back(use); }

    bool has_batches() const POOL_LOCKED { return batches_ > 0; }
    // What threads that took several have not begun waits again: of one of them, of all.
    void take_back(PoolThread& thread) noexcept POOL_LOCKED;
    void take_back_all() noexcept POOL_LOCKED;

    struct Contents {
        JobList plain;
        KeyedJobs others;
    };
    // All that waits is moved there, which is empty.
    void move_everything(Contents& to) noexcept POOL_LOCKED;

  private:
    static JobKey key_of(const TokenUse& use) { return job_key(use.priority, use.number); }
    static void put(ThreadJobPtr job, JobKey key, KeyedJobs& jobs) noexcept;
    ThreadJobPtr take_first(PoolThread& thread, JobKey plain) noexcept POOL_LOCKED;
    // Of the jobs that wait for tokens, the first that this thread may run now; null: none.
    TokenUse* first_at_gate(unsigned index) noexcept POOL_LOCKED;
    std::size_t batch(std::size_t sharers) const POOL_LOCKED;

    ThreadPoolState& pool_;
    JobList plain_ POOL_GUARDED;      // those without an `extra`
    KeyedJobs waiting_ POOL_GUARDED;  // the others, but those of one thread
    TokenGate gate_;                  // guarded by the mutex, but for wanted()
    KeyedJobs at_gate_ POOL_GUARDED;
    std::size_t keyed_ POOL_GUARDED = 0;    // jobs in PoolThread::own
    std::size_t batches_ POOL_GUARDED = 0;  // PoolThread::has_batch
};

}  // namespace sidestep::detail
