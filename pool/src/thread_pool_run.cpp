// What the threads of a ThreadPool do: run jobs.
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

thread_local ThreadPoolCore* pool_of_this_thread = nullptr;
thread_local ThreadJob* job_of_this_thread = nullptr;  // that it runs

}  // namespace

ThreadPoolCore* ThreadPoolCore::of_this_thread() noexcept { return pool_of_this_thread; }

// --- a thread's life ----------------------------------------------------------------------------

bool ThreadPoolCore::initialize(unsigned index) {
    pool_of_this_thread = this;
    try {
        prctl(PR_SET_NAME, fmt::format("{}_{}", state_.options.thread_name_prefix, index).c_str());
    } catch (const std::bad_alloc&) {  // it goes without a name
    }
    if (!state_.options.initializer) return true;
    try {
        state_.options.initializer();
        return true;
    } catch (...) {
        pass_on_forced_unwind();
        std::exception_ptr error = std::current_exception();
        end_.break_down(broken_pool([&] {
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
        if (state_.options.finalizer) state_.options.finalizer();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sidestep: the finalizer of a thread threw %s\n", error.what());
    } catch (...) {
        pass_on_forced_unwind();
        std::fprintf(stderr, "sidestep: the finalizer of a thread threw\n");
    }
}

void ThreadPoolCore::run(PoolThread& thread) {
    const bool works = initialize(thread.index);
    Lock lock(state_.mutex);
    while (works && team_.take(thread)) {
        lock.unlock();
        run_all(thread);
        lock.lock();
        team_.settle(thread);
    }
    team_.leave(thread);
    lock.unlock();
    if (works) finalize();
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
            if (job->extra && job->extra->tokens) team_.give_back(*job->extra->tokens);
            Lock lock(state_.mutex);
            team_.give_up(thread);
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
            clock_.disarm(*job);
            if (job->extra->tokens) team_.give_back(*job->extra->tokens);
        }
        job = std::move(next);  // the arguments go before the next one is begun
        begun = now;
    }
    thread.took = begun - first;
}

void ThreadPoolCore::run_job(ThreadJob& job, PoolThread& thread) {
    job_of_this_thread = &job;
    if (job.start()) run_attempts(job, thread);
    job_of_this_thread = nullptr;
}

void ThreadPoolCore::run_attempts(ThreadJob& job, PoolThread& thread) {
    TaskContext context;
    context.number = context.item = job.number;
    context.seed = state_.options.seed;
    context.worker = static_cast<int>(thread.index);
    context.stop_flag = &job.stop_flag();
    context.pool = &nested_;
    const Retry& policy = state_.options_of(job).retry;
    clock_.arm(job);
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
    Lock lock(state_.mutex);
    return state_.life.interrupted();
}

// Neither the pause nor Retry::when is part of an attempt.
bool ThreadPoolCore::retry(const Retry& retry, unsigned attempts, const std::exception_ptr& error) {
    ThreadJob& job = *job_of_this_thread;
    clock_.disarm(job);
    if (!wants_retry(retry, error) || !pause_here(retry_pause(retry, attempts))) return false;
    clock_.arm(job);
    return true;
}

bool retry_here(const Retry& retry, unsigned attempts, const std::exception_ptr& error) {
    return attempts < retry.max_attempts && pool_of_this_thread->retry(retry, attempts, error);
}

}  // namespace sidestep::detail
