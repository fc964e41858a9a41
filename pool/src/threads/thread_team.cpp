// When the threads of a ThreadPool sleep, are woken, and take jobs.
//
// T1 A thread that sleeps is woken, or one more is started, for each job that waits and that nobody
//    is on the way to already (help_if_needed()). Who took jobs looks whether there is more: so one
//    wakes the next.
// T2 While all jobs are tiny, that would cost more than they do. Then one of those that sleep, the
//    sentry, looks every millisecond, and nobody is woken while somebody is awake. What waits
//    longer than that behind a job that turns out to be long, the sentry takes.
// T3 While all jobs are tiny, a thread takes many at a time. What it has not begun is there for
//    others: who finds nothing to do, and the sentry, takes all that back
//    (JobQueue::take_back_all()). A thread sleeps only when there is nothing of the kind; and none
//    takes many while others sleep, unless one of these is the sentry.
// T4 Only jobs without options of their own are taken so, and only while no others wait: so the
//    order is what it would be if each were taken alone.
#include "threads/thread_team.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <utility>

#include "sync/spin.hpp"
#include "sys/error.hpp"
#include "sys/make_thread.hpp"
#include "sys/sys.hpp"
#include "task/record_memory.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::chrono::milliseconds kTick{1};
constexpr std::chrono::seconds kRest{1};

}  // namespace

ThreadTeam::ThreadTeam(ThreadPoolState& pool, JobQueue& queue,
                       std::function<void(PoolThread&)> life)
    : pool_(pool), queue_(queue), life_(std::move(life)), turns_(pool.most_threads()) {}

ThreadTeam::~ThreadTeam() { SIDESTEP_ASSERT(threads_.empty()); }

// --- who comes to work --------------------------------------------------------------------------

void ThreadTeam::put_by_options(ThreadJobPtr job) noexcept {
    queue_.take_back_all();  // who has a batch may have to run this one first
    if (job->extra->tokens) {
        queue_.push_at_gate(std::move(job));
        help_if_needed();
        return wake_all();
    }
    if (const std::uint64_t key = job->extra->options.key) {
        PoolThread& thread = *pool_.threads[pool_.index_of(key)];
        queue_.push_own(thread, std::move(job));
        return wake(thread);
    }
    queue_.push_in_order(std::move(job));
    help_if_needed();
    wake_all_if_extra();
}

void ThreadTeam::give_back(TokenUse& use) noexcept {
    Lock lock(pool_.mutex);
    queue_.give_back(use);
    if (queue_.waits_at_gate()) wake_all();
}

void ThreadTeam::look_at_gate() noexcept {
    if (!pool_.owner.is_here()) return;
    Lock lock(pool_.mutex);
    help_if_needed();
    wake_all();
}

// Throws std::system_error if the system gives none.
void ThreadTeam::start_thread() {
    pool_.threads.reserve(pool_.threads.size() + 1);
    idle_.reserve(pool_.threads.size() + 1);  // to sleep takes no memory
    std::list<std::thread> one(1);
    pool_.threads.push_back(
        std::make_unique<PoolThread>(static_cast<unsigned>(pool_.threads.size())));
    try {
        one.front() = make_thread([this, &thread = *pool_.threads.back()] { life_(thread); });
    } catch (...) {
        pool_.threads.pop_back();
        throw;
    }
    threads_.splice(threads_.end(), one);
    ++coming_;
    ++awake_;
}

// If the system gives no thread, those that are there do the work.
void ThreadTeam::help_if_needed() noexcept {
    if (queue_.ready() <= coming_) return;
    if (all_tiny() && sentry_ && awake_ > 0) return;
    auto idle = std::find_if(idle_.rbegin(), idle_.rend(), [this](PoolThread* thread) POOL_LOCKED {
        return turns_.may_run(thread->index);
    });
    if (idle != idle_.rend()) return wake(**idle);
    if (threads_.size() >= turns_.most() || threads_.size() >= kMostPoolThreads) return;
    try {
        start_thread();
    } catch (const std::exception&) {  // see above
    }
}

void ThreadTeam::wake(PoolThread& thread) noexcept {
    auto at = std::find(idle_.begin(), idle_.end(), &thread);
    if (at == idle_.end()) return;  // it will look
    idle_.erase(at);
    thread.is_woken = thread.is_coming = true;
    ++coming_;
    ++awake_;
    thread.woken_up.notify_one();
}

void ThreadTeam::wake_all() noexcept {
    while (!idle_.empty()) wake(*idle_.back());
}

// Threads that may not run wait beside those that may: which of them is woken matters.
void ThreadTeam::wake_all_if_extra() noexcept {
    if (threads_.size() > pool_.most_threads()) wake_all();
}

// --- a thread's day -----------------------------------------------------------------------------

bool ThreadTeam::take(PoolThread& thread) {
    for (bool has_spun = false;;) {
        coming_ -= std::exchange(thread.is_coming, false);
        if (turns_.may_run(thread.index) && queue_.give_next(thread, sharers())) {
            turns_.begin_run(thread.index);
            help_if_needed();
            return true;
        }
        if (pool_.life.sealed() || pool_.life.broken()) return false;
        help_if_needed();  // this thread may not take what is there
        if (!has_spun && all_tiny() && !somebody_spins_ && !turns_.any_waits())
            spin(thread);
        else
            sleep(thread);
        has_spun = !has_spun;
    }
}

// Among how many threads what is plain is shared, if a thread may take several (T3, T4); else 0.
std::size_t ThreadTeam::sharers() const {
    if (!all_tiny() || turns_.any_waits() || pool_.options.max_pending != 0 ||
        (!idle_.empty() && !sentry_))
        return 0;
    return awake_ + 1;
}

void ThreadTeam::settle(PoolThread& thread) noexcept {
    if (thread.has_batch) queue_.take_back(thread);  // nothing, unless it goes
    const std::size_t jobs = std::exchange(thread.ended, 0);
    pace_.note(jobs, thread.took);
    pool_.jobs.unfinished -= jobs;
    turns_.end_run(thread.index);
    wake_all_if_extra();
    pool_.quiet.notify_all();
}

void ThreadTeam::give_up(PoolThread& thread) noexcept {
    settle(thread);
    --awake_;
    help_if_needed();
}

void ThreadTeam::leave(PoolThread& thread) noexcept {
    coming_ -= std::exchange(thread.is_coming, false);
    --awake_;
}

// A wake-up takes longer than the next job is away, if they are tiny.
void ThreadTeam::spin(PoolThread& thread) noexcept {
    somebody_spins_ = thread.is_coming = true;
    ++coming_;
    const std::uint32_t seen = arrivals_.load(std::memory_order_relaxed);
    pool_.mutex.unlock();
    (void)spin_until(spin_budget(),
                     [&] { return arrivals_.load(std::memory_order_relaxed) != seen; });
    pool_.mutex.lock();
    somebody_spins_ = false;
}

void ThreadTeam::sleep(PoolThread& thread) noexcept {
    idle_.push_back(&thread);
    --awake_;
    if (all_tiny() && !sentry_) sentry_ = &thread;
    while (!thread.is_woken) {
        if (sentry_ != &thread)
            thread.woken_up.wait(pool_.mutex);
        else if (awake_ == 0)
            rest(thread);
        else
            keep_watch(thread);
    }
    thread.is_woken = false;
    if (sentry_ != &thread) return;
    sentry_ = nullptr;
    // Nobody looks after that now, and others may sleep: see help_if_needed().
    queue_.take_back_all();
}

void ThreadTeam::keep_watch(PoolThread& thread) noexcept {
    const auto tick = sys::Clock::now() + kTick;
    thread.woken_up.wait_until(pool_.mutex, tick);
    if (!thread.is_woken && sys::Clock::now() >= tick &&
        (queue_.ready() > 0 || queue_.has_batches()))
        wake(thread);
}

// The sentry has nobody to watch. After some time, memory goes back.
void ThreadTeam::rest(PoolThread& thread) noexcept {
    sentry_ = nullptr;
    const auto end = sys::Clock::now() + kRest;
    thread.woken_up.wait_until(pool_.mutex, end);
    if (thread.is_woken || sys::Clock::now() < end) return;
    pool_.mutex.unlock();
    JobMemory::trim();
    pool_.mutex.lock();
}

// --- waiting inside a task ----------------------------------------------------------------------

// In a forked copy of a thread of the pool, the mutex may be locked for ever.
void ThreadTeam::begin_wait() noexcept {
    if (!pool_.owner.is_here()) return;
    Lock lock(pool_.mutex);
    turns_.begin_wait();
    queue_.take_back_all();
    help_if_needed();
    wake_all_if_extra();
}

void ThreadTeam::end_wait() noexcept {
    if (!pool_.owner.is_here()) return;
    Lock lock(pool_.mutex);
    turns_.end_wait();
}

unsigned ThreadTeam::size() {
    pool_.owner.require_here();
    Lock lock(pool_.mutex);
    return static_cast<unsigned>(threads_.size());
}

unsigned ThreadTeam::idle() {
    pool_.owner.require_here();
    Lock lock(pool_.mutex);
    return static_cast<unsigned>(idle_.size());
}

// --- the end ------------------------------------------------------------------------------------

void ThreadTeam::ask_to_stop() {
    Lock lock(pool_.mutex);
    for (auto& thread : pool_.threads) thread->ask_to_stop();
}

void ThreadTeam::join() {
    for (;;) {                           // a thread that waits may start another one
        std::list<std::thread> threads;  // made without memory: this is the end of a pool
        {
            Lock lock(pool_.mutex);
            threads.swap(threads_);
        }
        if (threads.empty()) break;
        for (std::thread& thread : threads) thread.join();
    }
}

}  // namespace sidestep::detail
