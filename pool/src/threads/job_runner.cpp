#include "threads/job_runner.hpp"

#include <fmt/format.h>
#include <sys/prctl.h>

#include <chrono>
#include <cstdio>
#include <new>

#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/this_task.hpp>

#include "spare_errors.hpp"
#include "sys/error.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {
namespace {

thread_local ThreadJob* job_of_this_thread = nullptr;  // that it runs

}  // namespace

// --- a thread's life ----------------------------------------------------------------------------

bool JobRunner::initialize(unsigned index) {
    try {
        prctl(PR_SET_NAME,
              fmt::format("{}_{}", pool_.state.options.thread_name_prefix, index).c_str());
    } catch (const std::bad_alloc&) {  // it goes without a name
    }
    if (!pool_.state.options.initializer) return true;
    try {
        pool_.state.options.initializer();
        return true;
    } catch (...) {
        pass_on_forced_unwind();
        std::exception_ptr error = std::current_exception();
        pool_.end.break_down(broken_pool([&] {
            return fmt::format(
                "the pool is broken: its initializer threw {}; make a new pool when the cause is "
                "gone",
                text_of(error));
        }));
        return false;
    }
}

void JobRunner::finalize() {
    try {
        if (pool_.state.options.finalizer) pool_.state.options.finalizer();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sidestep: the finalizer of a thread threw %s\n", error.what());
    } catch (...) {
        pass_on_forced_unwind();
        std::fprintf(stderr, "sidestep: the finalizer of a thread threw\n");
    }
}

void JobRunner::run(PoolThread& thread) {
    const bool works = initialize(thread.index);
    Lock lock(pool_.state.mutex);
    while (works && pool_.team.take(thread)) {
        lock.unlock();
        run_all(thread);
        lock.lock();
        pool_.team.settle(thread);
    }
    pool_.team.leave(thread);
    lock.unlock();
    if (works) finalize();
}

// --- jobs that run ------------------------------------------------------------------------------

void JobRunner::run_all(PoolThread& thread) {
    const auto first = sys::Clock::now();
    auto begun = first;
    ThreadJobPtr job = thread.begin();
    while (job) {
        try {
            run_job(*job, thread);
        } catch (...) {  // pthread_exit: the thread goes, and the task has no result
            thread.forget();
            if (job->extra && job->extra->tokens) pool_.team.give_back(*job->extra->tokens);
            Lock lock(pool_.state.mutex);
            pool_.team.give_up(thread);
            throw;
        }
        const auto now = sys::Clock::now();
        const EndedJob end{begun, now - begun, job->cancelled(),
                           !job->cancelled() && job->error() != nullptr};
        if (job->attempt > 0) pool_.insight.note(*job, thread, end);
        ThreadJobPtr next = thread.next(*job, end);
        if (job->extra) {
            pool_.clock.disarm(*job);
            if (job->extra->tokens) pool_.team.give_back(*job->extra->tokens);
        }
        job = std::move(next);  // the arguments go before the next one is begun
        begun = now;
    }
    thread.took = begun - first;
}

void JobRunner::run_job(ThreadJob& job, PoolThread& thread) {
    job_of_this_thread = &job;
    if (job.start()) run_attempts(job, thread);
    job_of_this_thread = nullptr;
}

void JobRunner::run_attempts(ThreadJob& job, PoolThread& thread) {
    TaskContext context;
    context.number = context.item = job.number;
    context.seed = pool_.state.options.seed;
    context.worker = static_cast<int>(thread.index);
    context.stop_flag = &job.stop_flag();
    context.pool = &nested_;
    const Retry& policy = pool_.state.options_of(job).retry;
    pool_.clock.arm(job, 1);
    for (bool again = true; again;) {
        context.attempt = ++job.attempt;
        TaskScope scope(context);
        try {
            job.run(job.attempt >= policy.max_attempts);
            again = false;
        } catch (...) {
            pass_on_forced_unwind();
            std::exception_ptr error = std::current_exception();
            again = !was_interrupted() && retry(policy, job.attempt, error);
            if (!again) job.try_fail(error);
        }
    }
}

bool JobRunner::was_interrupted() {
    Lock lock(pool_.state.mutex);
    return pool_.state.life.interrupted();
}

// Neither the pause nor Retry::when is part of an attempt.
bool JobRunner::retry(const Retry& retry, unsigned attempts, const std::exception_ptr& error) {
    if (attempts >= retry.max_attempts) return false;
    ThreadJob& job = *job_of_this_thread;
    pool_.clock.disarm(job);
    if (!wants_retry(retry, error) || !pause_here(retry_pause(retry, attempts))) return false;
    pool_.clock.arm(job, attempts + 1);
    return true;
}

}  // namespace sidestep::detail
