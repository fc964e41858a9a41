// What the threads of a ThreadPool do: sleep, take jobs and run them.
//
// T1 A thread that sleeps is woken, or one more is started, for each job that waits and that nobody
//    is on the way to already (help_if_needed()). Who took jobs looks whether there is more: so one
//    wakes the next.
// T2 While all jobs are tiny, that would cost more than they do. Then one of those that sleep, the
//    sentry, looks every millisecond, and nobody is woken while somebody is awake. What waits
//    longer than that behind a job that turns out to be long, the sentry takes.
// T3 While all jobs are tiny, a thread takes many at a time. What it has not begun is there for
//    others: who finds nothing to do, and the sentry, takes all that back (take_back_all()). A
//    thread sleeps only when there is nothing of the kind; and none takes many while others sleep,
//    unless one of these is the sentry.
// T4 Only jobs without options of their own are taken so, and only while no others wait: so the
//    order is what it would be if each were taken alone.
#include <fmt/format.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <limits>
#include <new>
#include <stdexcept>
#include <utility>

#include <sidestep/detail/forced_unwind.hpp>

#include "spare_errors.hpp"
#include "sync/spin.hpp"
#include "sys/error.hpp"
#include "sys/make_thread.hpp"
#include "sys/sys.hpp"
#include "task/record_memory.hpp"
#include "thread_pool_core.hpp"
#include "worker/worker_meter.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr std::size_t kMostAtOnce = 64;  // jobs: some microseconds of work
// So many tiny jobs one after the other, and all are taken for tiny.
constexpr std::size_t kManyTiny = 64;
constexpr std::chrono::nanoseconds kTiny{WorkerMeter::kTinyTaskNs};
constexpr std::chrono::milliseconds kTick{1};
constexpr std::chrono::seconds kRest{1};

thread_local ThreadPoolCore* pool_of_this_thread = nullptr;
thread_local ThreadJob* job_of_this_thread = nullptr;  // that it runs

}  // namespace

ThreadPoolCore* ThreadPoolCore::of_this_thread() noexcept { return pool_of_this_thread; }

// --- who comes to work --------------------------------------------------------------------------

// Throws std::system_error if the system gives none.
void ThreadPoolCore::start_thread() {
    workers_.reserve(workers_.size() + 1);
    idle_.reserve(workers_.size() + 1);  // to sleep takes no memory
    std::list<std::thread> one(1);
    workers_.push_back(std::make_unique<PoolThread>(static_cast<unsigned>(workers_.size())));
    try {
        one.front() = make_thread([this, &thread = *workers_.back()] { run(thread); });
    } catch (...) {
        workers_.pop_back();
        throw;
    }
    threads_.splice(threads_.end(), one);
    ++coming_;
    ++awake_;
}

// If the system gives no thread, those that are there do the work.
void ThreadPoolCore::help_if_needed() noexcept {
    if (ready() <= coming_) return;
    if (all_tiny() && sentry_ && awake_ > 0) return;
    auto idle = std::find_if(idle_.rbegin(), idle_.rend(), [this](PoolThread* thread) POOL_LOCKED {
        return may_run(thread->index);
    });
    if (idle != idle_.rend()) return wake(**idle);
    if (threads_.size() >= most_threads() + in_wait_ || threads_.size() >= kMostPoolThreads) return;
    try {
        start_thread();
    } catch (const std::exception&) {  // see above
    }
}

void ThreadPoolCore::wake(PoolThread& thread) noexcept {
    auto at = std::find(idle_.begin(), idle_.end(), &thread);
    if (at == idle_.end()) return;  // it will look
    idle_.erase(at);
    thread.is_woken = thread.is_coming = true;
    ++coming_;
    ++awake_;
    thread.woken_up.notify_one();
}

void ThreadPoolCore::wake_all() noexcept {
    while (!idle_.empty()) wake(*idle_.back());
}

// A thread that waits for a future lets another one run; when it goes on, that one finishes what it
// has and pauses. Those beyond the number that was asked for are extra: they run only in the place
// of one that waits, so that the others get their turn (tasks with a key have only them).
bool ThreadPoolCore::may_run(unsigned index) const {
    if (is_extra(index) && extra_running_ >= in_wait_) return false;
    return running_ < most_threads() + in_wait_;
}

// Threads that may not run wait beside those that may: which of them is woken matters.
void ThreadPoolCore::wake_all_if_extra() noexcept {
    if (threads_.size() > most_threads()) wake_all();
}

// --- a thread's life ----------------------------------------------------------------------------

bool ThreadPoolCore::initialize(unsigned index) {
    pool_of_this_thread = this;
    try {
        prctl(PR_SET_NAME, fmt::format("{}_{}", options_.thread_name_prefix, index).c_str());
    } catch (const std::bad_alloc&) {  // it goes without a name
    }
    if (!options_.initializer) return true;
    try {
        options_.initializer();
        return true;
    } catch (...) {
        pass_on_forced_unwind();
        std::exception_ptr error = std::current_exception();
        break_pool(broken_pool([&] {
            return fmt::format(
                "the pool is broken: its initializer threw {}; make a new pool when the cause is "
                "gone",
                text_of(error));
        }));
        return false;
    }
}

void ThreadPoolCore::finalize() {
    try {
        if (options_.finalizer) options_.finalizer();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sidestep: the finalizer of a thread threw %s\n", error.what());
    } catch (...) {
        pass_on_forced_unwind();
        std::fprintf(stderr, "sidestep: the finalizer of a thread threw\n");
    }
}

void ThreadPoolCore::break_pool(std::exception_ptr reason) noexcept {
    {
        Lock lock(mutex_);
        if (!life_.broken()) life_.break_down(std::move(reason));  // the first one's
        reason = life_.why_broken();
    }
    fail_waiting(reason);
    Lock lock(mutex_);
    wake_all();
}

void ThreadPoolCore::run(PoolThread& thread) {
    const bool works = initialize(thread.index);
    Lock lock(mutex_);
    while (works && take(thread)) {
        lock.unlock();
        run_all(thread);
        lock.lock();
        settle(thread);
    }
    coming_ -= std::exchange(thread.is_coming, false);
    --awake_;
    lock.unlock();
    if (works) finalize();
}

bool ThreadPoolCore::take(PoolThread& thread) {
    for (bool has_spun = false;;) {
        coming_ -= std::exchange(thread.is_coming, false);
        if (may_run(thread.index) && take_some(thread)) {
            ++running_;
            extra_running_ += is_extra(thread.index);
            help_if_needed();
            return true;
        }
        if (life_.sealed() || life_.broken()) return false;
        help_if_needed();  // this thread may not take what is there
        if (!has_spun && all_tiny() && !somebody_spins_ && in_wait_ == 0)
            spin(thread);
        else
            sleep(thread);
        has_spun = !has_spun;
    }
}

// A wake-up takes longer than the next job is away, if they are tiny.
void ThreadPoolCore::spin(PoolThread& thread) noexcept {
    somebody_spins_ = thread.is_coming = true;
    ++coming_;
    const std::uint32_t seen = arrivals_.load(std::memory_order_relaxed);
    mutex_.unlock();
    (void)spin_until(spin_budget(),
                     [&] { return arrivals_.load(std::memory_order_relaxed) != seen; });
    mutex_.lock();
    somebody_spins_ = false;
}

void ThreadPoolCore::sleep(PoolThread& thread) noexcept {
    idle_.push_back(&thread);
    --awake_;
    if (all_tiny() && !sentry_) sentry_ = &thread;
    while (!thread.is_woken) {
        if (sentry_ != &thread)
            thread.woken_up.wait(mutex_);
        else if (awake_ == 0)
            rest(thread);
        else
            keep_watch(thread);
    }
    thread.is_woken = false;
    if (sentry_ != &thread) return;
    sentry_ = nullptr;
    take_back_all();  // nobody looks after that now, and others may sleep: see help_if_needed()
}

void ThreadPoolCore::keep_watch(PoolThread& thread) noexcept {
    const auto tick = sys::Clock::now() + kTick;
    thread.woken_up.wait_until(mutex_, tick);
    if (!thread.is_woken && sys::Clock::now() >= tick && (ready() > 0 || batches_ > 0))
        wake(thread);
}

// The sentry has nobody to watch. After some time, memory goes back.
void ThreadPoolCore::rest(PoolThread& thread) noexcept {
    sentry_ = nullptr;
    const auto end = sys::Clock::now() + kRest;
    thread.woken_up.wait_until(mutex_, end);
    if (thread.is_woken || sys::Clock::now() < end) return;
    mutex_.unlock();
    JobMemory::trim();
    mutex_.lock();
}

// --- what is next -------------------------------------------------------------------------------

bool ThreadPoolCore::take_some(PoolThread& thread) {
    if (batches_ > 0 && plain_.empty()) take_back_all();
    constexpr JobKey kNone{std::numeric_limits<int>::max(), 0};
    const JobKey plain = plain_.empty() ? kNone : JobKey(0, plain_.first()->number);
    if (ThreadJobPtr job = take_first(thread, plain)) {
        thread.give(std::move(job));
        return true;
    }
    if (plain_.empty()) return false;
    const std::size_t count = batch();
    thread.has_batch = count > 1;
    batches_ += thread.has_batch;
    thread.give(plain_, count);
    return true;
}

// What comes before `plain` in this thread, and is none of those.
ThreadJobPtr ThreadPoolCore::take_first(PoolThread& thread, JobKey plain) noexcept {
    KeyedJobs& from = !thread.own.empty() && (waiting_.empty() ||
                                              thread.own.begin()->first < waiting_.begin()->first)
                          ? thread.own
                          : waiting_;
    TokenUse* gated = at_gate_.empty() ? nullptr : first_at_gate(thread.index);
    const bool has_more = !from.empty() && from.begin()->first < plain;
    if (gated && (key_of(*gated) < (has_more ? from.begin()->first : plain))) {
        tokens_.take(*gated);
        ThreadJobPtr job = std::move(at_gate_.extract(key_of(*gated)).mapped());
        if (!at_gate_.empty()) help_if_needed();
        return job;
    }
    if (!has_more) return nullptr;
    if (&from == &thread.own) --keyed_;
    return std::move(from.extract(from.begin()).mapped());
}

// How many of those that are plain a thread takes: T3, T4.
std::size_t ThreadPoolCore::batch() const {
    if (!all_tiny() || in_wait_ > 0 || keyed_ > 0 || !waiting_.empty() || !at_gate_.empty() ||
        options_.max_pending != 0 || (!idle_.empty() && !sentry_))
        return 1;
    return std::clamp<std::size_t>(plain_.size() / (awake_ + 1), 1, kMostAtOnce);
}

void ThreadPoolCore::take_back_all() noexcept {
    if (batches_ == 0) return;
    for (auto& thread : workers_)
        if (thread->has_batch) plain_.merge(thread->take_back());
}

// --- jobs that run ------------------------------------------------------------------------------

void ThreadPoolCore::run_all(PoolThread& thread) {
    const auto first = sys::Clock::now();
    auto begun = first;
    ThreadJobPtr job = thread.begin();
    while (job) {
        try {
            run_job(*job, thread);
        } catch (...) {  // pthread_exit: the thread goes, and the task has no result
            thread.forget();
            if (job->extra && job->extra->tokens) free_tokens(*job->extra->tokens);
            Lock lock(mutex_);
            settle(thread);
            --awake_;
            help_if_needed();
            throw;
        }
        const auto now = sys::Clock::now();
        const EndedJob end{begun, now - begun, job->cancelled(),
                           !job->cancelled() && job->error() != nullptr};
        if (job->attempt > 0) {
            if (end.took > thread.least_slow()) note_slow(*job, thread, end.took);
            if (trace_.on()) trace_end(*job, thread.index, end);
        }
        ThreadJobPtr next = thread.next(*job, end);
        if (job->extra) {
            disarm_timer(*job);
            if (job->extra->tokens) free_tokens(*job->extra->tokens);
        }
        job = std::move(next);  // the arguments go before the next one is begun
        begun = now;
    }
    thread.took = begun - first;
}

void ThreadPoolCore::settle(PoolThread& thread) noexcept {
    if (std::exchange(thread.has_batch, false)) {
        plain_.merge(thread.take_back());  // none, unless it goes
        --batches_;
    }
    const std::size_t jobs = std::exchange(thread.ended, 0);
    note_pace(jobs, thread.took);
    unfinished_ -= jobs;
    --running_;
    extra_running_ -= is_extra(thread.index);
    wake_all_if_extra();
    quiet_.notify_all();
}

void ThreadPoolCore::note_pace(std::size_t jobs, std::chrono::nanoseconds took) noexcept {
    const bool are_tiny = took < kTiny * static_cast<long>(jobs);
    tiny_in_a_row_ = are_tiny ? std::min(tiny_in_a_row_ + jobs, kManyTiny) : 0;
    all_tiny_.store(tiny_in_a_row_ == kManyTiny, std::memory_order_relaxed);
}

void ThreadPoolCore::run_job(ThreadJob& job, PoolThread& thread) {
    job_of_this_thread = &job;
    if (job.start()) run_attempts(job, thread);
    job_of_this_thread = nullptr;
}

void ThreadPoolCore::run_attempts(ThreadJob& job, PoolThread& thread) {
    TaskContext context;
    context.number = context.item = job.number;
    context.seed = options_.seed;
    context.worker = static_cast<int>(thread.index);
    context.stop_flag = &job.stop_flag();
    context.pool = &nested_;
    const Retry& policy = options_of(job).retry;
    arm_timer(job);
    for (bool again = true; again;) {
        context.attempt = ++job.attempt;
        TaskScope scope(context);
        try {
            job.run(job.attempt >= policy.max_attempts);
            again = false;
        } catch (...) {
            pass_on_forced_unwind();
            std::exception_ptr error = std::current_exception();
            again = !was_interrupted() && retry_here(policy, job.attempt, error);
            if (!again) job.try_fail(error);
        }
    }
}

bool ThreadPoolCore::was_interrupted() {
    Lock lock(mutex_);
    return life_.interrupted();
}

// Neither the pause nor Retry::when is part of an attempt.
bool ThreadPoolCore::retry(const Retry& retry, unsigned attempts, const std::exception_ptr& error) {
    ThreadJob& job = *job_of_this_thread;
    disarm_timer(job);
    if (!wants_retry(retry, error) || !pause_here(retry_pause(retry, attempts))) return false;
    arm_timer(job);
    return true;
}

bool retry_here(const Retry& retry, unsigned attempts, const std::exception_ptr& error) {
    return attempts < retry.max_attempts && pool_of_this_thread->retry(retry, attempts, error);
}

// --- waiting inside a task ----------------------------------------------------------------------

// In a forked copy of a thread of the pool, the mutex may be locked for ever.
void ThreadPoolCore::begin_wait() noexcept {
    if (!owned_here()) return;
    Lock lock(mutex_);
    ++in_wait_;
    take_back_all();
    help_if_needed();
    wake_all_if_extra();
}

void ThreadPoolCore::end_wait() noexcept {
    if (!owned_here()) return;
    Lock lock(mutex_);
    --in_wait_;
}

}  // namespace sidestep::detail
