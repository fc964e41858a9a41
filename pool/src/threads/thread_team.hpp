// The threads of a ThreadPool: who of them sleeps, who is woken, and when one more is started.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <thread>
#include <utility>
#include <vector>

#include "sync/pool_mutex.hpp"
#include "task/token_gate.hpp"
#include "threads/job_pace.hpp"
#include "threads/job_queue.hpp"
#include "threads/pool_thread.hpp"
#include "threads/thread_pool_state.hpp"
#include "threads/turns.hpp"

namespace sidestep::inline v0::detail {

class ThreadTeam {
  public:
    // life: what a thread does, from its begin to its end.
    ThreadTeam(ThreadPoolState& pool, JobQueue& queue, std::function<void(PoolThread&)> life);
    ~ThreadTeam();

    bool all_tiny() const { return pace_.all_tiny(); }  // see JobPace
    // So many threads were started. Throws std::system_error if the system gives none.
    void require(std::size_t threads) POOL_LOCKED {
        while (pool_.threads.size() < threads) start_thread();
    }
    // The job waits from now on, and somebody comes for it.
    void put(ThreadJobPtr job) noexcept POOL_LOCKED {
        if (job->extra) return put_by_options(std::move(job));
        queue_.push(std::move(job));
        if (somebody_spins_) arrivals_.fetch_add(1, std::memory_order_relaxed);
        help_if_needed();
    }
    // A job is through with its tokens; or one that waits for some was cancelled.
    void give_back(TokenUse& use) noexcept POOL_UNLOCKED;
    void look_at_gate() noexcept POOL_UNLOCKED;

    // Gives the thread what it runs next. False: there will be nothing more.
    bool take(PoolThread& thread) POOL_LOCKED;
    // The thread has run what it took; or pthread_exit ends it: what it has left is for others.
    void settle(PoolThread& thread) noexcept POOL_LOCKED;
    void give_up(PoolThread& thread) noexcept POOL_LOCKED;
    void leave(PoolThread& thread) noexcept POOL_LOCKED;

    // A thread of the pool begins, or ends, to wait for a future: another one may run meanwhile.
    void begin_wait() noexcept POOL_UNLOCKED;
    void end_wait() noexcept POOL_UNLOCKED;

    void wake_all() noexcept POOL_LOCKED;
    void ask_to_stop() POOL_UNLOCKED;  // what runs
    void join() POOL_UNLOCKED;         // all of them, which leave
    // How many there are, and how many of them wait for work. std::logic_error in a forked copy.
    unsigned size() POOL_UNLOCKED;
    unsigned idle() POOL_UNLOCKED;

  private:
    using Lock = PoolLock;

    void start_thread() POOL_LOCKED;
    void put_by_options(ThreadJobPtr job) noexcept POOL_LOCKED;
    void help_if_needed() noexcept POOL_LOCKED;
    void wake(PoolThread& thread) noexcept POOL_LOCKED;
    void wake_all_if_extra() noexcept POOL_LOCKED;
    std::size_t sharers() const POOL_LOCKED;
    void spin(PoolThread& thread) noexcept POOL_LOCKED;
    void sleep(PoolThread& thread) noexcept POOL_LOCKED;
    void keep_watch(PoolThread& thread) noexcept POOL_LOCKED;
    void rest(PoolThread& thread) noexcept POOL_LOCKED;

    ThreadPoolState& pool_;
    JobQueue& queue_;
    const std::function<void(PoolThread&)> life_;
    JobPace pace_;                            // note(): with the mutex held
    std::atomic<std::uint32_t> arrivals_{0};  // relaxed, a hint: who spins looks at it
    std::list<std::thread> threads_ POOL_GUARDED;
    std::vector<PoolThread*> idle_ POOL_GUARDED;  // who slept last comes last
    Turns turns_ POOL_GUARDED;
    std::size_t coming_ POOL_GUARDED = 0;        // PoolThread::is_coming
    unsigned awake_ POOL_GUARDED = 0;            // threads that neither sleep nor have gone
    PoolThread* sentry_ POOL_GUARDED = nullptr;  // sleeps, but looks now and then: see sleep()
    bool somebody_spins_ POOL_GUARDED = false;
};

}  // namespace sidestep::detail
