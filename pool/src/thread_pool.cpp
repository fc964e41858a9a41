#include <sidestep/thread_pool.hpp>

#include <fmt/format.h>
#include <sys/prctl.h>

#include <algorithm>
#include <stdexcept>
#include <system_error>

#include <sidestep/forced_unwind.hpp>
#include <sidestep/pool_task.hpp>

#include "error.hpp"
#include "sys.hpp"
#include "thread_pool_core.hpp"

namespace sidestep {
namespace detail {
namespace {

constexpr unsigned kMostThreads = 4096;
thread_local ThreadPoolCore* pool_of_this_thread = nullptr;
thread_local ThreadJob* job_of_this_thread = nullptr;  // that it runs
std::atomic<unsigned> pools_made{0};

void check(const TaskOptions& options) {
    check_options(options);
    if (options.memory_limit != 0 && options.memory_limit != kNoLimit)
        throw std::invalid_argument(
            "TaskOptions::memory_limit: threads share the memory of the process; use a Pool");
}

ThreadPoolOptions checked(ThreadPoolOptions options) {
    if (!options.threads)
        options.threads = std::min(32u, static_cast<unsigned>(sys::usable_cpus()) + 4);
    if (*options.threads < 1 || *options.threads > kMostThreads)
        throw std::invalid_argument(
            fmt::format("ThreadPoolOptions::threads is {}; a pool has 1 to {} threads",
                        *options.threads, kMostThreads));
    if (options.thread_name_prefix.empty())
        options.thread_name_prefix = fmt::format("tpool{}", pools_made++);
    check(options.task);
    if (options.task.key != 0)
        throw std::invalid_argument(
            "ThreadPoolOptions::task.key is set; a key is a task's own: pool.submit({.key = 7}, f, "
            "x)");
    return options;
}

}  // namespace

ThreadPoolCore::ThreadPoolCore(ThreadPoolOptions options) : options_(checked(std::move(options))) {}

ThreadPoolCore::~ThreadPoolCore() { SIDESTEP_ASSERT(threads_.empty() && !timer_.joinable()); }

// Before the mutex is taken: in a forked copy a thread that exists no more may hold it for ever.
void ThreadPoolCore::require_owner() const {
    if (!owned_here())
        throw std::logic_error(
            "this pool's threads are in the process that made it, and this is a forked copy: make "
            "a "
            "pool of its own here");
}

// begun: a stream that was made before close().
void ThreadPoolCore::check_accepting(bool begun) const {
    if (!broken_.empty()) throw BrokenPool(broken_);
    if (interrupted_)
        throw CancelledError(
            "the pool was interrupted (SIGINT): it finishes what runs, and takes no tasks any "
            "more");
    if (terminated_ && begun)
        throw CancelledError("the item was cancelled: its pool was terminated");
    if (closed_ && (ended_ || !begun))
        throw std::logic_error("the pool is closed: it takes no tasks after close()");
}

void ThreadPoolCore::check_open() {
    require_owner();
    Lock lock(mutex_);
    check_accepting(false);
}

void refuse_retries(const Retry& retry) {
    if (retry.max_attempts > 1)
        throw std::invalid_argument(fmt::format(
            "TaskOptions::retry.max_attempts is {}, and an argument cannot be copied: the second "
            "attempt would have none. Give it a shared_ptr, or max_attempts = 1",
            retry.max_attempts));
}

void ThreadPoolCore::submit(std::unique_ptr<ThreadJob> job, const TaskOptions* options,
                            bool begun) {
    if (options) check(*options);
    job->options = options ? merged(*options, options_.task) : options_.task;
    if (!job->runs_again()) refuse_retries(job->options.retry);
    require_owner();
    Lock lock(mutex_);
    check_accepting(begun);
    job->number = next_number_++;
    job->submitted_at = sys::Clock::now();
    Key key{-job->options.priority, job->number};
    if (std::uint64_t sticky = job->options.key) {
        auto thread = static_cast<unsigned>(sticky % most_threads());
        while (threads_.size() <= thread) start_thread();  // it must be that one
        keyed_[thread].emplace(key, std::move(job));
        ++unfinished_;
        return changed_.notify_all();
    }
    bool first = threads_.empty();
    if (first) start_thread();  // or nobody would run it
    waiting_.emplace(key, std::move(job));
    ++unfinished_;
    if (!first) help_if_needed();
    changed_.notify_one();
    wake_all_if_extra();
}

void ThreadPoolCore::begin_map() {
    require_owner();
    Lock lock(mutex_);
    ++maps_;
}

void ThreadPoolCore::end_map() {
    if (!owned_here()) return;
    Lock lock(mutex_);
    --maps_;
    quiet_.notify_all();
}

std::shared_ptr<void> hold_open(const std::shared_ptr<ThreadPoolCore>& core) {
    core->begin_map();
    return {core.get(), [core](void*) { core->end_map(); }};
}

// Throws std::system_error if the system gives none.
void ThreadPoolCore::start_thread() {
    auto index = static_cast<unsigned>(threads_.size());
    threads_.emplace_back();
    try {
        threads_.back() = std::thread([this, index] { run(index); });
    } catch (...) {
        threads_.pop_back();
        throw;
    }
}

// An idle thread will take what waits; else there is a new one, unless there are enough. If the
// system gives none, those that are there do the work.
void ThreadPoolCore::help_if_needed() {
    if (idle_ >= waiting_.size() || threads_.size() >= most_threads() + in_wait_ ||
        threads_.size() >= kMostThreads)
        return;
    try {
        start_thread();
    } catch (const std::system_error&) {  // see above
    }
}

bool ThreadPoolCore::initialize(unsigned index) {
    prctl(PR_SET_NAME, fmt::format("{}_{}", options_.thread_name_prefix, index).c_str());
    pool_of_this_thread = this;
    if (!options_.initializer) return true;
    std::string text = "something that is no std::exception";
    try {
        options_.initializer();
        return true;
    } catch (const std::exception& error) {
        text = error.what();
    } catch (...) {  // text says so
    }
    Lock lock(mutex_);
    if (broken_.empty())  // the first one's: it stays, and is read without the mutex by nobody
        broken_ = fmt::format(
            "the pool is broken: its initializer threw {}; make a new pool when the "
            "cause is gone",
            text);
    std::string reason = broken_;
    lock.unlock();
    fail_waiting([&] { return std::make_exception_ptr(BrokenPool(reason)); });
    changed_.notify_all();
    return false;
}

void ThreadPoolCore::run(unsigned index) {
    if (!initialize(index)) return;
    Lock lock(mutex_);
    while (std::unique_ptr<ThreadJob> job = take(lock, index)) {
        lock.unlock();
        run_job(*job, index);
        job.reset();  // its arguments go before the next one is taken
        lock.lock();
    }
    lock.unlock();
    try {
        if (options_.finalizer) options_.finalizer();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sidestep: the finalizer of a thread threw %s\n", error.what());
    } catch (...) {
        std::fprintf(stderr, "sidestep: the finalizer of a thread threw\n");
    }
}

// A thread that waits for a future lets another one run; when it goes on, that one finishes what it
// has and pauses. Those beyond the number that was asked for are extra: they run only in the place
// of one that waits, so that the others get their turn (tasks with a key have only them).
bool ThreadPoolCore::may_run(unsigned index) const {
    if (is_extra(index) && extra_running_ >= in_wait_) return false;
    return running_.size() < most_threads() + in_wait_;
}

// Threads that may not run wait beside those that may: which of them is woken matters.
void ThreadPoolCore::wake_all_if_extra() {
    if (threads_.size() > most_threads()) changed_.notify_all();
}

// The next job; null at the end.
std::unique_ptr<ThreadJob> ThreadPoolCore::take(Lock& lock, unsigned index) {
    for (;;) {
        auto& own = keyed_[index];
        auto& from =
            !own.empty() && (waiting_.empty() || own.begin()->first < waiting_.begin()->first)
                ? own
                : waiting_;
        if (!from.empty() && may_run(index)) {
            auto job = std::move(from.extract(from.begin()).mapped());
            running_[job->number] = &job->task();
            extra_running_ += is_extra(index);
            return job;
        }
        if (ended_ || !broken_.empty()) return nullptr;
        ++idle_;
        changed_.wait(lock);
        --idle_;
    }
}

void ThreadPoolCore::run_job(ThreadJob& job, unsigned index) {
    auto begun = sys::Clock::now();
    job_of_this_thread = &job;
    try {
        if (job.task().start()) run_attempts(job, index);
    } catch (...) {  // pthread_exit: the thread goes, and the task has no result
        end_job(job, index);
        throw;
    }
    note_end(job, index, begun);
    end_job(job, index);
}

void ThreadPoolCore::run_attempts(ThreadJob& job, unsigned index) {
    TaskContext context;
    context.number = context.item = job.number;
    context.seed = options_.seed;
    context.worker = static_cast<int>(index);
    context.stop_flag = &job.task().stop_flag();
    arm_timer(job);
    for (bool again = true; again;) {
        context.attempt = ++job.attempt;
        TaskScope scope(context);
        try {
            job.run(job.attempt >= job.options.retry.max_attempts);
            again = false;
        } catch (...) {
            pass_on_forced_unwind();
            std::exception_ptr error = std::current_exception();
            again = !interrupted_ && retry_here(job.options.retry, job.attempt, error);
            if (!again) job.task().try_fail(error);
        }
    }
}

void ThreadPoolCore::end_job(ThreadJob& job, unsigned index) {
    job_of_this_thread = nullptr;
    disarm_timer(job);
    Lock lock(mutex_);
    running_.erase(job.number);
    extra_running_ -= is_extra(index);
    --unfinished_;
    wake_all_if_extra();
    quiet_.notify_all();
}

// Neither the pause nor Retry::when is part of an attempt.
bool retry_here(const Retry& retry, unsigned attempts, const std::exception_ptr& error) {
    if (attempts >= retry.max_attempts) return false;
    ThreadJob& job = *job_of_this_thread;
    pool_of_this_thread->disarm_timer(job);
    if (!wants_retry(retry, error) || !pause_here(retry_pause(retry, attempts))) return false;
    pool_of_this_thread->arm_timer(job);
    return true;
}

// --- waiting inside a task ---------------------------------------------------------------------

void ThreadPoolCore::begin_wait() {
    Lock lock(mutex_);
    ++in_wait_;
    help_if_needed();
    wake_all_if_extra();
}

void ThreadPoolCore::end_wait() {
    Lock lock(mutex_);
    --in_wait_;
}

WaitScope::WaitScope() : core_(pool_of_this_thread) {
    if (core_) core_->begin_wait();
}
WaitScope::~WaitScope() {
    if (core_) core_->end_wait();
}

// --- the end -----------------------------------------------------------------------------------

void ThreadPoolCore::run_in_background(std::function<void()> work) {
    background_.start("sidestep-map", std::move(work));
}

unsigned ThreadPoolCore::threads() {
    Lock lock(mutex_);
    return static_cast<unsigned>(threads_.size());
}

unsigned ThreadPoolCore::idle_threads() {
    Lock lock(mutex_);
    return idle_;
}

void ThreadPoolCore::close() {
    Lock lock(mutex_);
    closed_ = true;
}

void ThreadPoolCore::fail_waiting(const std::function<std::exception_ptr()>& error) {
    std::vector<std::unique_ptr<ThreadJob>> jobs;
    {
        Lock lock(mutex_);
        for (auto& [key, job] : waiting_) jobs.push_back(std::move(job));
        waiting_.clear();
        for (auto& [thread, list] : keyed_) {
            for (auto& [key, job] : list) jobs.push_back(std::move(job));
            list.clear();
        }
        (error ? noted_.failed : noted_.cancelled) += jobs.size();
        unfinished_ -= jobs.size();
        quiet_.notify_all();
    }
    for (auto& job : jobs) {
        if (error)
            job->task().try_fail(error());
        else
            job->task().cancel();
    }
}

void ThreadPoolCore::cancel_waiting() { fail_waiting(nullptr); }

void ThreadPoolCore::interrupt() {
    interrupted_ = true;
    close();
    cancel_waiting();
}

void ThreadPoolCore::terminate() {
    {
        Lock lock(mutex_);
        closed_ = terminated_ = true;
        quiet_.notify_all();
    }
    cancel_waiting();
    ask_to_stop();
}

void ThreadPoolCore::ask_to_stop() {
    Lock lock(mutex_);
    for (auto& [number, task] : running_) task->ask_to_stop();
}

bool ThreadPoolCore::in_own_thread() {
    if (pool_of_this_thread == this || background_.is_this_thread()) return true;
    Lock lock(mutex_);
    return timer_.is_this_thread();
}

void ThreadPoolCore::join() {
    {
        Lock lock(mutex_);
        if (!closed_)
            throw std::logic_error("join() before close() or terminate(): it would wait for ever");
    }
    if (in_own_thread())
        throw std::logic_error(
            "join() in a thread of the pool would wait for itself: call it in another thread, or "
            "let the pool end here, which does not wait");
    Lock only_one(joining_);
    background_.join();
    {
        Lock lock(mutex_);
        quiet_.wait(lock, [this] {
            bool maps_end = terminated_ || !broken_.empty();
            return unfinished_ == 0 && (maps_ == 0 || maps_end);
        });
        ended_ = true;
        changed_.notify_all();
    }
    for (;;) {  // a thread that waits may start another one
        std::deque<std::thread> threads;
        {
            Lock lock(mutex_);
            threads.swap(threads_);
        }
        if (threads.empty()) break;
        for (std::thread& thread : threads) thread.join();
    }
    ServiceThread timer;
    {
        Lock lock(mutex_);
        timer_ends_ = true;
        timed_.notify_all();
        timer.swap(timer_);
    }
    if (timer.joinable()) timer.join();
    trace_.end();
}

void submit_job(ThreadPoolCore& core, std::unique_ptr<ThreadJob> job, const TaskOptions* options,
                bool begun) {
    core.submit(std::move(job), options, begun);
}
void check_open(ThreadPoolCore& core) { core.check_open(); }
const TaskOptions& default_options(const ThreadPoolCore& core) { return core.default_options(); }

}  // namespace detail

ThreadPool::ThreadPool(ThreadPoolOptions options)
    : core_(std::make_shared<detail::ThreadPoolCore>(std::move(options))),
      exceptions_at_start_(std::uncaught_exceptions()) {}

ThreadPool::~ThreadPool() {
    if (!core_->owned_here()) {  // a forked copy has no threads to join: nothing is touched
        new std::shared_ptr<detail::ThreadPoolCore>(std::move(core_));
        return;
    }
    core_->close();
    if (std::uncaught_exceptions() > exceptions_at_start_) core_->cancel_waiting();
    if (!core_->in_own_thread())
        core_->join();
    else if (!detail::join_elsewhere([core = core_] { core->join(); }))
        new std::shared_ptr<detail::ThreadPoolCore>(std::move(core_));  // the process is ending
}

void ThreadPool::close() { core_->close(); }
void ThreadPool::terminate() { core_->terminate(); }
void ThreadPool::join() { core_->join(); }
void ThreadPool::shutdown(ShutdownOptions options) {
    core_->close();
    if (options.cancel_futures) core_->cancel_waiting();
    if (options.wait) core_->join();
}
unsigned ThreadPool::processes() const { return core_->most_threads(); }
unsigned ThreadPool::threads() const { return core_->threads(); }
unsigned ThreadPool::idle_threads() const { return core_->idle_threads(); }
PoolStats ThreadPool::stats() const { return core_->stats(); }
void ThreadPool::trace(const std::string& path) { core_->trace(path); }
void ThreadPool::trace_stop() { core_->trace_stop(); }
void ThreadPool::run_in_background(std::function<void()> work) {
    core_->run_in_background(std::move(work));
}

}  // namespace sidestep
