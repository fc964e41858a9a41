#include "threads/thread_pool_end.hpp"

#include <cstdint>
#include <utility>

#include "spare_errors.hpp"
#include "threads/job_list.hpp"

namespace sidestep::inline v0::detail {
namespace {

thread_local const ThreadPoolEnd* end_of_callbacks_here = nullptr;  // of jobs that did not run

std::exception_ptr why_cancelled(const Lifecycle& life) {
    if (life.ending()) return spare_errors().terminated;
    return life.interrupted() ? spare_errors().interrupted : spare_errors().shut_down;
}

}  // namespace

bool ThreadPoolEnd::is_this_thread() const noexcept { return end_of_callbacks_here == this; }

void ThreadPoolEnd::end_waiting(const std::exception_ptr& error) noexcept {
    JobQueue::Contents jobs;
    LateJobs::ByNumber late;
    std::uint64_t count = 0;
    std::exception_ptr why;
    {
        Lock lock(pool_.mutex);
        why = why_cancelled(pool_.life);
        queue_.move_everything(jobs);
        late = late_.take_all(jobs.plain);
        count = jobs.plain.size() + jobs.others.size();
        (error ? pool_.jobs.failed : pool_.jobs.cancelled) += count;
    }
    late_.forget(late);
    const ThreadPoolEnd* before = std::exchange(end_of_callbacks_here, this);
    auto end = [&error, &why](ThreadJob& job) {
        if (error)
            job.try_fail(error);
        else
            job.fail_cancelled(why);
    };
    while (ThreadJobPtr job = jobs.plain.pop()) end(*job);
    for (auto& [key, job] : jobs.others) end(*job);
    end_of_callbacks_here = before;
    Lock lock(pool_.mutex);
    pool_.jobs.unfinished -= count;
    pool_.quiet.notify_all();
}

void ThreadPoolEnd::break_down(std::exception_ptr reason) noexcept {
    {
        Lock lock(pool_.mutex);
        if (!pool_.life.broken()) pool_.life.break_down(std::move(reason));  // the first one's
        reason = pool_.life.why_broken();
    }
    end_waiting(reason);
    Lock lock(pool_.mutex);
    team_.wake_all();
}

}  // namespace sidestep::detail
