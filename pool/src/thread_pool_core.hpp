// The inside of a ThreadPool: who waits, who runs, and the clock.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sidestep/pool_errors.hpp>
#include <sidestep/pool_stats.hpp>
#include <sidestep/thread_pool.hpp>

#include "insight/task_names.hpp"
#include "insight/trace_writer.hpp"
#include "joiner.hpp"
#include "life/lifecycle.hpp"
#include "life/pool_owner.hpp"
#include "service_thread.hpp"
#include "sync/pool_mutex.hpp"
#include "task/dependents.hpp"
#include "task/token_gate.hpp"
#include "threads/pool_thread.hpp"
#include "threads/pools_by_number.hpp"
#include "threads/thread_options.hpp"

namespace sidestep::inline v0::detail {

class ThreadPoolCore final : public std::enable_shared_from_this<ThreadPoolCore>,
                             public EndingPool {
  public:
    explicit ThreadPoolCore(ThreadPoolOptions options);
    ~ThreadPoolCore();

    // Future::then() finds it by its number, from now on.
    void become_known() { pools_by_number().add(number_, weak_from_this()); }

    void submit(ThreadJobPtr job, const TaskOptions* options, bool begun) POOL_UNLOCKED;
    void submit_late(ThreadJobPtr job, std::vector<TaskRef> needs,
                     const TaskOptions* options) POOL_UNLOCKED;
    void check_open() POOL_UNLOCKED;
    // See thread_stream.hpp.
    static std::shared_ptr<void> take_place(const std::shared_ptr<ThreadPoolCore>& core);
    bool take_place() POOL_UNLOCKED;  // see Place
    void give_place_back() POOL_UNLOCKED;
    // Between them join() waits: a map is collected.
    void begin_map() POOL_UNLOCKED;
    void end_map() POOL_UNLOCKED;
    void run_in_background(std::function<void()> work) POOL_UNLOCKED;
    void close() POOL_UNLOCKED;
    void cancel_waiting() POOL_UNLOCKED;
    void interrupt() POOL_UNLOCKED;  // both; and nothing is run again
    void terminate() POOL_UNLOCKED;
    void ask_to_stop() POOL_UNLOCKED;
    void join() POOL_UNLOCKED override;
    bool join_until(const sys::Deadline& deadline) POOL_UNLOCKED;
    // Nobody has the pool any more: join() does not wait for what others are to do.
    void be_destroyed() POOL_UNLOCKED;
    // This thread runs tasks or callbacks of the pool, or feeds a map: it cannot join().
    bool in_own_thread() POOL_UNLOCKED override;
    void end_with_process() noexcept POOL_UNLOCKED override;
    void keep_for_ever() { self_ = shared_from_this(); }  // nobody will join()
    unsigned most_threads() const { return *options_.threads; }
    unsigned threads() POOL_UNLOCKED;
    unsigned idle_threads() POOL_UNLOCKED;
    PoolStats stats() POOL_UNLOCKED;
    void trace(const std::string& path) POOL_UNLOCKED;
    void trace_stop();
    bool owned_here() const { return owner_.is_here(); }
    const TaskOptions& default_options() const { return options_.task; }
    // Throws std::invalid_argument for tokens that the pool has not.
    void check_tokens(const TaskOptions& options) const { (void)tokens_.wanted(options.uses); }

    // What its tasks have as this_task::pool(). Before the first one.
    void set_nested(std::shared_ptr<NestedPool> nested) { nested_ = std::move(nested); }
    // That this thread runs jobs of; null: of none.
    static ThreadPoolCore* of_this_thread() noexcept;
    // A thread of the pool begins, or ends, to wait for a future: another one may run meanwhile.
    void begin_wait() noexcept POOL_UNLOCKED;
    void end_wait() noexcept POOL_UNLOCKED;
    // An attempt of the job that this thread runs failed; see retry_here().
    bool retry(const Retry& retry, unsigned attempts,
               const std::exception_ptr& error) POOL_UNLOCKED;

  private:
    using Lock = PoolLock;

    bool was_interrupted() POOL_UNLOCKED;
    bool is_full() const POOL_LOCKED {
        return options_.max_pending != 0 && unfinished_ + places_taken_ >= options_.max_pending;
    }
    // Not in the pool's own threads, which may be those that make room.
    void await_room() POOL_LOCKED;
    class Late;
    // Its own, or the pool's.
    const TaskOptions& options_of(const ThreadJob& job) const {
        return job.extra ? job.extra->options : options_.task;
    }
    // Throws what submit() throws for these options.
    void set_options(ThreadJob& job, const TaskOptions* options) const;
    // The pool has one more job. Throws for want of memory, or of a thread; queue() does not.
    void accept(ThreadJob& job) POOL_LOCKED;
    void prepare(ThreadJob& job) POOL_LOCKED;
    void queue(ThreadJobPtr job) noexcept POOL_LOCKED;
    // With an error: that becomes its result.
    void queue_late(Late& late, const std::exception_ptr& error,
                    bool cancelled) noexcept POOL_UNLOCKED;
    void require_joinable() POOL_UNLOCKED;
    void await_end() POOL_UNLOCKED;
    bool waits_in_vain() const POOL_LOCKED;
    void end_vain_waits() POOL_UNLOCKED;
    void start_thread() POOL_LOCKED;
    void start_timer() POOL_LOCKED;
    JobDeadlines::node_type timed(ThreadJob& job, Timeout timeout, bool only_asks) POOL_LOCKED;
    // --- what threads do: thread_pool_run.cpp
    void help_if_needed() noexcept POOL_LOCKED;
    void wake(PoolThread& thread) noexcept POOL_LOCKED;
    void wake_all() noexcept POOL_LOCKED;
    void wake_all_if_extra() noexcept POOL_LOCKED;
    void run(PoolThread& thread) POOL_UNLOCKED;
    bool initialize(unsigned index) POOL_UNLOCKED;
    void finalize();
    void break_pool(std::exception_ptr reason) noexcept POOL_UNLOCKED;
    // Gives the thread what it runs next. False: there will be nothing more.
    bool take(PoolThread& thread) POOL_LOCKED;
    bool take_some(PoolThread& thread) POOL_LOCKED;
    ThreadJobPtr take_first(PoolThread& thread, JobKey plain) noexcept POOL_LOCKED;
    std::size_t batch() const POOL_LOCKED;
    void take_back_all() noexcept POOL_LOCKED;
    void spin(PoolThread& thread) noexcept POOL_LOCKED;
    void sleep(PoolThread& thread) noexcept POOL_LOCKED;
    void keep_watch(PoolThread& thread) noexcept POOL_LOCKED;
    void rest(PoolThread& thread) noexcept POOL_LOCKED;
    void run_all(PoolThread& thread) POOL_UNLOCKED;
    void run_job(ThreadJob& job, PoolThread& thread) POOL_UNLOCKED;
    void run_attempts(ThreadJob& job, PoolThread& thread) POOL_UNLOCKED;
    // It has run what it took, or goes.
    void settle(PoolThread& thread) noexcept POOL_LOCKED;
    void note_pace(std::size_t jobs, std::chrono::nanoseconds took) noexcept POOL_LOCKED;
    bool is_extra(unsigned index) const { return index >= most_threads(); }
    bool may_run(unsigned index) const POOL_LOCKED;
    // Jobs that wait for any thread.
    std::size_t ready() noexcept POOL_LOCKED {
        const bool gated = !at_gate_.empty() && tokens_.first(TokenUse::kAnyWorker);
        return plain_.size() + waiting_.size() + gated;
    }
    bool all_tiny() const { return all_tiny_.load(std::memory_order_relaxed); }

    // Of the jobs that wait for tokens, the first that this thread may run now; null: none.
    TokenUse* first_at_gate(unsigned index) noexcept POOL_LOCKED;
    static JobKey key_of(const TokenUse& use) { return {-use.priority, use.number}; }
    void wait_at_gate(ThreadJobPtr job) noexcept POOL_LOCKED;
    void free_tokens(TokenUse& use) noexcept POOL_UNLOCKED;
    void look_at_gate() POOL_UNLOCKED;
    // The timeout of an attempt, in the thread that runs it.
    void arm_timer(ThreadJob& job) noexcept POOL_UNLOCKED;
    void disarm_timer(ThreadJob& job) noexcept POOL_UNLOCKED;
    void run_timer() POOL_UNLOCKED;
    void fail_waiting(const std::exception_ptr& error) noexcept POOL_UNLOCKED;
    void note_slow(const ThreadJob& job, PoolThread& thread,
                   std::chrono::nanoseconds took) noexcept POOL_UNLOCKED;
    void trace_end(const ThreadJob& job, unsigned index, const EndedJob& end) POOL_UNLOCKED;

    const ThreadPoolOptions options_;
    const bool has_defaults_ = options_.task.says_anything();
    std::shared_ptr<NestedPool> nested_;
    const PoolOwner owner_{"this pool's threads are in"};
    const std::uint32_t number_ = pools_by_number().next();
    BackgroundThreads background_;
    Dependents dependents_;
    TaskNames names_;  // types: guarded by mutex_
    Tracing trace_;
    std::shared_ptr<ThreadPoolCore> self_;  // see keep_for_ever()
    Joiner joiner_;
    std::mutex joining_;  // before mutex_
    // Relaxed, both: hints. The last jobs were tiny; more so than waking somebody for each costs.
    std::atomic<bool> all_tiny_{false};
    std::atomic<std::uint32_t> arrivals_{0};  // who spins looks at it
    PoolMutex mutex_;
    // Guarded by mutex_.
    PoolCondition timed_;  // for the timer
    PoolCondition quiet_;  // for join(): perhaps nothing is left
    Lifecycle life_ POOL_GUARDED;
    JobList plain_ POOL_GUARDED;      // those without an `extra`
    KeyedJobs waiting_ POOL_GUARDED;  // the others, but those of one thread (PoolThread::own)
    TokenGate tokens_;                // guarded by mutex_, but for what says otherwise
    KeyedJobs at_gate_ POOL_GUARDED;  // they need tokens
    std::map<std::uint64_t, std::shared_ptr<Late>> late_ POOL_GUARDED;  // by number
    std::uint64_t late_left_ POOL_GUARDED = 0;  // so many have stopped waiting
    JobDeadlines deadlines_ POOL_GUARDED;
    std::list<std::thread> threads_ POOL_GUARDED;
    PoolThreads workers_ POOL_GUARDED;
    std::vector<PoolThread*> idle_ POOL_GUARDED;  // who slept last comes last
    ServiceThread timer_ POOL_GUARDED;
    std::size_t coming_ POOL_GUARDED = 0;        // PoolThread::is_coming
    unsigned awake_ POOL_GUARDED = 0;            // threads that neither sleep nor have gone
    PoolThread* sentry_ POOL_GUARDED = nullptr;  // sleeps, but looks now and then: see sleep()
    bool somebody_spins_ POOL_GUARDED = false;
    std::size_t tiny_in_a_row_ POOL_GUARDED = 0;  // jobs
    std::size_t batches_ POOL_GUARDED = 0;        // PoolThread::has_batch
    std::size_t keyed_ POOL_GUARDED = 0;          // jobs in PoolThread::own
    unsigned in_wait_ POOL_GUARDED = 0;
    unsigned running_ POOL_GUARDED = 0;          // threads that have jobs
    unsigned extra_running_ POOL_GUARDED = 0;    // see may_run()
    std::uint64_t unfinished_ POOL_GUARDED = 0;  // jobs
    std::size_t places_taken_ POOL_GUARDED = 0;  // by try_submit(), now
    std::uint64_t next_number_ POOL_GUARDED = 1;
    std::uint64_t failed_ POOL_GUARDED = 0, cancelled_ POOL_GUARDED = 0;  // that did not begin
    bool timer_ends_ POOL_GUARDED = false;
};

}  // namespace sidestep::detail
