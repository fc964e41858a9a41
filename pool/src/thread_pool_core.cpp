#include "thread_pool_core.hpp"

#include <fmt/format.h>
#include <sys/prctl.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <new>
#include <stdexcept>
#include <utility>

#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/pool_task.hpp>

#include "place.hpp"
#include "spare_errors.hpp"
#include "sys/error.hpp"
#include "sys/make_thread.hpp"
#include "sys/sys.hpp"
#include "thread_pool_late.hpp"

namespace sidestep::inline v0 {
namespace detail {
namespace {

constexpr unsigned kMostThreads = 4096;
thread_local ThreadPoolCore* pool_of_this_thread = nullptr;
thread_local ThreadPoolCore* pool_of_callbacks_here = nullptr;     // of tasks that did not run
thread_local ThreadPoolCore::Entry* job_of_this_thread = nullptr;  // that it runs
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
    if (options.task.soft_timeout.count() != 0)
        throw std::invalid_argument(
            "ThreadPoolOptions::task.soft_timeout is set; it is a task's own: "
            "pool.submit({.soft_timeout = 2s}, f, x)");
    if (!options.task.uses.empty())
        throw std::invalid_argument(
            "ThreadPoolOptions::task.uses is set; tokens are a task's own, or a map's: "
            "pool.submit({.uses = {{\"gpu\", 1}}}, f, x)");
    TokenGate::check(options.tokens, "ThreadPoolOptions");
    return options;
}

}  // namespace

ThreadPoolCore::ThreadPoolCore(ThreadPoolOptions options)
    : options_(checked(std::move(options))), tokens_(options_.tokens) {}

ThreadPoolCore::~ThreadPoolCore() { SIDESTEP_ASSERT(threads_.empty() && !timer_.joinable()); }

// Before the mutex is taken: in a forked copy a thread that exists no more may hold it for ever.
void ThreadPoolCore::require_owner() const {
    if (!owned_here())
        throw std::logic_error(
            "this pool's threads are in the process that made it, and this is a forked copy: make "
            "a pool of its own here");
}

void ThreadPoolCore::check_open() {
    require_owner();
    Lock lock(mutex_);
    life_.require_accepting();
}

void ThreadPoolCore::set_options(ThreadJob& job, const TaskOptions* options) const {
    if (options) check(*options);
    job.options = options ? merged(*options, options_.task) : options_.task;
    if (!job.runs_again()) refuse_retries(job.options.retry);
}

void ThreadPoolCore::begin_map() {
    require_owner();
    Lock lock(mutex_);
    life_.begin_map();
}

void ThreadPoolCore::end_map() {
    if (!owned_here()) return;
    Lock lock(mutex_);
    (void)life_.end_map();
    quiet_.notify_all();
}

std::shared_ptr<void> hold_open(const std::shared_ptr<ThreadPoolCore>& core) {
    struct OpenMap {
        explicit OpenMap(const std::shared_ptr<ThreadPoolCore>& held) : core(held), here(*held) {
            core->begin_map();
        }
        ~OpenMap() { core->end_map(); }
        const std::shared_ptr<ThreadPoolCore> core;
        const InPool here;
    };
    return std::make_shared<OpenMap>(core);
}

// Throws std::system_error if the system gives none.
void ThreadPoolCore::start_thread() {
    auto index = static_cast<unsigned>(threads_.size());
    (void)keyed_[index];
    noted_.workers.reserve(index + 1);
    threads_.emplace_back();
    try {
        threads_.back() = make_thread([this, index] { run(index); });
    } catch (...) {
        threads_.pop_back();
        throw;
    }
}

// An idle thread will take what waits; else there is a new one, unless there are enough. If the
// system gives none, those that are there do the work.
void ThreadPoolCore::help_if_needed() noexcept {
    const std::size_t ready = waiting_.size() + (tokens_.first(TokenUse::kAnyWorker) ? 1 : 0);
    if (idle_ >= ready || threads_.size() >= most_threads() + in_wait_ ||
        threads_.size() >= kMostThreads)
        return;
    try {
        start_thread();
    } catch (const std::exception&) {  // see above
    }
}

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

void ThreadPoolCore::break_pool(std::exception_ptr reason) noexcept {
    {
        Lock lock(mutex_);
        if (!life_.broken()) life_.break_down(std::move(reason));  // the first one's
        reason = life_.why_broken();
    }
    fail_waiting(reason);
    changed_.notify_all();
}

void ThreadPoolCore::run(unsigned index) {
    if (!initialize(index)) return;
    Lock lock(mutex_);
    for (Entry entry = take(index); entry.job; entry = take(index)) {
        lock.unlock();
        run_job(entry, index);
        entry = {};  // its arguments go before the next one is taken
        lock.lock();
    }
    lock.unlock();
    try {
        if (options_.finalizer) options_.finalizer();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sidestep: the finalizer of a thread threw %s\n", error.what());
    } catch (...) {
        pass_on_forced_unwind();
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

// The next job; none at the end.
ThreadPoolCore::Entry ThreadPoolCore::take(unsigned index) {
    for (;;) {
        Jobs& own = keyed_.find(index)->second;
        Jobs& from =
            !own.empty() && (waiting_.empty() || own.begin()->first < waiting_.begin()->first)
                ? own
                : waiting_;
        TokenUse* gated = first_at_gate(index);
        if (gated && !from.empty() && from.begin()->first < key_of(*gated)) gated = nullptr;
        if ((gated || !from.empty()) && may_run(index)) {
            if (gated) tokens_.take(*gated);
            Entry entry = std::move(gated ? at_gate_.extract(key_of(*gated)).mapped()
                                          : from.extract(from.begin()).mapped());
            if (!at_gate_.empty()) help_if_needed();
            running_.insert(std::move(entry.running));
            extra_running_ += is_extra(index);
            return entry;
        }
        if (life_.sealed() || life_.broken()) return {};
        ++idle_;
        changed_.wait(mutex_);
        --idle_;
    }
}

void ThreadPoolCore::run_job(Entry& entry, unsigned index) {
    auto begun = sys::Clock::now();
    job_of_this_thread = &entry;
    try {
        if (entry.job->task().start()) run_attempts(entry, index);
    } catch (...) {  // pthread_exit: the thread goes, and the task has no result
        end_job(entry, index);
        throw;
    }
    note_end(*entry.job, index, begun);
    end_job(entry, index);
}

void ThreadPoolCore::run_attempts(Entry& entry, unsigned index) {
    ThreadJob& job = *entry.job;
    TaskContext context;
    context.number = context.item = job.number;
    context.seed = options_.seed;
    context.worker = static_cast<int>(index);
    context.stop_flag = &job.task().stop_flag();
    context.pool = &nested_;
    arm_timer(entry);
    for (bool again = true; again;) {
        context.attempt = ++job.attempt;
        TaskScope scope(context);
        try {
            job.run(job.attempt >= job.options.retry.max_attempts);
            again = false;
        } catch (...) {
            pass_on_forced_unwind();
            std::exception_ptr error = std::current_exception();
            again = !was_interrupted() && retry_here(job.options.retry, job.attempt, error);
            if (!again) job.task().try_fail(error);
        }
    }
}

bool ThreadPoolCore::was_interrupted() {
    Lock lock(mutex_);
    return life_.interrupted();
}

void ThreadPoolCore::end_job(Entry& entry, unsigned index) noexcept {
    job_of_this_thread = nullptr;
    disarm_timer(entry);
    Lock lock(mutex_);
    running_.erase(entry.job->number);
    extra_running_ -= is_extra(index);
    --unfinished_;
    if (entry.tokens) free_tokens(*entry.tokens);
    wake_all_if_extra();
    quiet_.notify_all();
}

// Neither the pause nor Retry::when is part of an attempt.
bool ThreadPoolCore::retry(const Retry& retry, unsigned attempts, const std::exception_ptr& error) {
    Entry& entry = *job_of_this_thread;
    disarm_timer(entry);
    if (!wants_retry(retry, error) || !pause_here(retry_pause(retry, attempts))) return false;
    arm_timer(entry);
    return true;
}

bool retry_here(const Retry& retry, unsigned attempts, const std::exception_ptr& error) {
    return attempts < retry.max_attempts && pool_of_this_thread->retry(retry, attempts, error);
}

// --- waiting inside a task ---------------------------------------------------------------------

// In a forked copy of a thread of the pool, the mutex may be locked for ever.
void ThreadPoolCore::begin_wait() noexcept {
    if (!owned_here()) return;
    Lock lock(mutex_);
    ++in_wait_;
    help_if_needed();
    wake_all_if_extra();
}

void ThreadPoolCore::end_wait() noexcept {
    if (!owned_here()) return;
    Lock lock(mutex_);
    --in_wait_;
}

ThreadPoolCore* ThreadPoolCore::of_this_thread() noexcept { return pool_of_this_thread; }

// --- the end -----------------------------------------------------------------------------------

void ThreadPoolCore::run_in_background(std::function<void()> work) {
    require_owner();
    background_.start("sidestep-map", std::move(work));
}

void ThreadPoolCore::close() {
    require_owner();
    Lock lock(mutex_);
    life_.close();
    quiet_.notify_all();  // submit() may wait for room
}

// With this error; null: they are cancelled. Their callbacks run here, and join() in another thread
// waits for them.
void ThreadPoolCore::fail_waiting(const std::exception_ptr& error) noexcept {
    Jobs jobs;
    std::map<std::uint64_t, std::shared_ptr<Late>> late;
    {
        Lock lock(mutex_);
        jobs.swap(waiting_);
        for (auto& [thread, list] : keyed_) jobs.merge(list);
        for (auto& [key, entry] : at_gate_) tokens_.forget(*entry.tokens);
        jobs.merge(at_gate_);
        for (auto& [number, each] : late_) jobs.insert(std::move(each->job));
        late_left_ += late_.size();
        late.swap(late_);
        (error ? noted_.failed : noted_.cancelled) += jobs.size();
    }
    for (auto& [number, each] : late) dependents_.remove(*each);
    ThreadPoolCore* before = std::exchange(pool_of_callbacks_here, this);
    for (auto& [key, entry] : jobs) {
        if (error)
            entry.job->task().try_fail(error);
        else
            entry.job->task().cancel();
    }
    pool_of_callbacks_here = before;
    Lock lock(mutex_);
    unfinished_ -= jobs.size();
    quiet_.notify_all();
}

void ThreadPoolCore::cancel_waiting() {
    require_owner();
    fail_waiting(nullptr);
}

void ThreadPoolCore::interrupt() {
    require_owner();
    {
        Lock lock(mutex_);
        (void)life_.interrupt();
    }
    cancel_waiting();
}

void ThreadPoolCore::terminate() {
    require_owner();
    {
        Lock lock(mutex_);
        (void)life_.terminate();
        quiet_.notify_all();
    }
    cancel_waiting();
    ask_to_stop();
}

void ThreadPoolCore::end_with_process() noexcept { terminate(); }

void ThreadPoolCore::ask_to_stop() {
    require_owner();
    Lock lock(mutex_);
    for (auto& [number, task] : running_) task->ask_to_stop();
}

std::shared_ptr<void> ThreadPoolCore::take_place(const std::shared_ptr<ThreadPoolCore>& core) {
    core->require_owner();
    if (core->options_.max_pending == 0 || core->in_own_thread()) return core;
    return Place<ThreadPoolCore>::take(core);
}

bool ThreadPoolCore::take_place() {
    Lock lock(mutex_);
    if (is_full() && life_.running()) return false;
    ++places_taken_;  // of a pool that is closed, too: submit() says why
    return true;
}

void ThreadPoolCore::give_place_back() {
    if (!owned_here()) return;
    Lock lock(mutex_);
    --places_taken_;
    quiet_.notify_all();
}

void ThreadPoolCore::await_room() {
    while (is_full() && !Place<ThreadPoolCore>::is_here(*this)) {
        quiet_.wait(mutex_);
        life_.require_accepting();
    }
}

bool ThreadPoolCore::in_own_thread() {
    if (pool_of_this_thread == this || pool_of_callbacks_here == this ||
        dependents_.is_this_thread() || background_.is_this_thread() || InPool::is_here(*this))
        return true;
    Lock lock(mutex_);
    return timer_.is_this_thread();
}

void ThreadPoolCore::require_joinable() {
    require_owner();
    {
        Lock lock(mutex_);
        if (life_.running())
            throw std::logic_error("join() before close() or terminate(): it would wait for ever");
    }
    if (in_own_thread())
        throw std::logic_error(
            "join() in a thread of the pool would wait for itself: call it in another thread, or "
            "let the pool end here, which does not wait");
}

void ThreadPoolCore::join() {
    require_joinable();
    await_end();
    joiner_.stop();
}

bool ThreadPoolCore::join_until(const sys::Deadline& deadline) {
    require_joinable();
    return joiner_.wait([this] { await_end(); }, deadline);
}

void ThreadPoolCore::await_end() {
    std::lock_guard only_one(joining_);
    background_.join();
    for (bool sealed = false; !sealed;) {
        end_vain_waits();
        Lock lock(mutex_);
        while (!waits_in_vain() && (unfinished_ > 0 || life_.waits_for_maps())) quiet_.wait(mutex_);
        if (waits_in_vain()) continue;
        life_.seal();
        changed_.notify_all();
        sealed = true;
    }
    for (;;) {                           // a thread that waits may start another one
        std::list<std::thread> threads;  // made without memory: this is the end of a pool
        {
            Lock lock(mutex_);
            threads.swap(threads_);
        }
        if (threads.empty()) break;
        for (std::thread& thread : threads) thread.join();
    }
    dependents_.stop();
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

}  // namespace detail
}  // namespace sidestep
