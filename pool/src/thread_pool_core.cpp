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
#include "task/record_memory.hpp"
#include "thread_pool_late.hpp"

namespace sidestep::inline v0 {
namespace detail {
namespace {

thread_local ThreadPoolCore* pool_of_callbacks_here = nullptr;  // of tasks that did not run

}  // namespace

ThreadPoolCore::ThreadPoolCore(ThreadPoolOptions options)
    : options_(checked_thread_options(std::move(options))), tokens_(options_.tokens) {}

// (A forked copy is not destroyed.)
ThreadPoolCore::~ThreadPoolCore() {
    pools_by_number().remove(number_);
    SIDESTEP_ASSERT(threads_.empty() && !timer_.joinable());
}

void ThreadPoolCore::check_open() {
    owner_.require_here();
    Lock lock(mutex_);
    life_.require_accepting();
}

void ThreadPoolCore::begin_map() {
    owner_.require_here();
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

// --- the end -----------------------------------------------------------------------------------

void ThreadPoolCore::run_in_background(std::function<void()> work) {
    owner_.require_here();
    background_.start("sidestep-map", std::move(work));
}

void ThreadPoolCore::close() {
    owner_.require_here();
    Lock lock(mutex_);
    life_.close();
    quiet_.notify_all();  // submit() may wait for room
}

// With this error; null: they are cancelled. Their callbacks run here, and join() in another thread
// waits for them.
void ThreadPoolCore::fail_waiting(const std::exception_ptr& error) noexcept {
    JobList plain;
    KeyedJobs jobs;
    std::map<std::uint64_t, std::shared_ptr<Late>> late;
    std::uint64_t count = 0;
    {
        Lock lock(mutex_);
        take_back_all();
        plain.merge(std::move(plain_));
        jobs.swap(waiting_);
        for (auto& thread : workers_) jobs.merge(thread->own);
        keyed_ = 0;
        for (auto& [key, job] : at_gate_) tokens_.forget(*job->extra->tokens);
        jobs.merge(at_gate_);
        late_left_ += late_.size();
        late.swap(late_);
        for (auto& [number, each] : late) plain.push(std::move(each->job));
        count = plain.size() + jobs.size();
        (error ? failed_ : cancelled_) += count;
    }
    for (auto& [number, each] : late) dependents_.remove(*each);
    ThreadPoolCore* before = std::exchange(pool_of_callbacks_here, this);
    auto end = [&error](ThreadJob& job) {
        if (error)
            job.try_fail(error);
        else
            job.cancel();
    };
    while (ThreadJobPtr job = plain.pop()) end(*job);
    for (auto& [key, job] : jobs) end(*job);
    pool_of_callbacks_here = before;
    Lock lock(mutex_);
    unfinished_ -= count;
    quiet_.notify_all();
}

void ThreadPoolCore::cancel_waiting() {
    owner_.require_here();
    fail_waiting(nullptr);
}

void ThreadPoolCore::interrupt() {
    owner_.require_here();
    {
        Lock lock(mutex_);
        (void)life_.interrupt();
    }
    cancel_waiting();
}

void ThreadPoolCore::terminate() {
    owner_.require_here();
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
    owner_.require_here();
    Lock lock(mutex_);
    for (auto& thread : workers_) thread->ask_to_stop();
}

std::shared_ptr<void> ThreadPoolCore::take_place(const std::shared_ptr<ThreadPoolCore>& core) {
    core->owner_.require_here();
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
    if (of_this_thread() == this || pool_of_callbacks_here == this ||
        dependents_.is_this_thread() || background_.is_this_thread() || InPool::is_here(*this))
        return true;
    Lock lock(mutex_);
    return timer_.is_this_thread();
}

void ThreadPoolCore::require_joinable() {
    owner_.require_here();
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
        wake_all();
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
    JobMemory::trim();
}

}  // namespace detail
}  // namespace sidestep
