// A ThreadPool's clock: the timeouts of the attempts that run.
#include <typeinfo>
#include <utility>

#include <sidestep/pool_errors.hpp>

#include "spare_errors.hpp"
#include "sys/sys.hpp"
#include "text/demangle.hpp"
#include "thread_pool_core.hpp"

namespace sidestep::inline v0::detail {

// With the mutex held. Throws std::system_error if the system gives no thread.
void ThreadPoolCore::start_timer() {
    if (!timer_.joinable())
        timer_.start("sidestep-timer", ServiceThread::Runs::users_code, [this] { run_timer(); });
}

namespace {

// Beside the key of the timeout: numbers stay below.
constexpr std::uint64_t kSoft = std::uint64_t(1) << 63;

}  // namespace

void ThreadPoolCore::arm_timer(ThreadJob& job) noexcept {
    if (!job.extra || (!job.extra->deadline && !job.extra->soft_deadline)) return;
    JobExtra& extra = *job.extra;
    Lock lock(state_.mutex);
    const auto now = sys::Clock::now();
    if (extra.deadline) {
        extra.due = now + extra.options.timeout.time();
        extra.deadline.key() = JobDue(extra.due, job.number);
        deadlines_.insert(std::move(extra.deadline));
    }
    if (extra.soft_deadline) {
        extra.soft_due = now + extra.options.soft_timeout.time();
        extra.soft_deadline.key() = JobDue(extra.soft_due, kSoft | job.number);
        deadlines_.insert(std::move(extra.soft_deadline));
    }
    timed_.notify_all();
}

void ThreadPoolCore::disarm_timer(ThreadJob& job) noexcept {
    if (!job.extra) return;
    JobExtra& extra = *job.extra;
    const sys::Clock::time_point never;  // only this thread writes them
    if (extra.due == never && extra.soft_due == never) return;
    Lock lock(state_.mutex);
    if (auto armed = deadlines_.extract(JobDue(extra.due, job.number)))
        extra.deadline = std::move(armed);
    if (auto armed = deadlines_.extract(JobDue(extra.soft_due, kSoft | job.number)))
        extra.soft_deadline = std::move(armed);
}

void ThreadPoolCore::run_timer() {
    Lock lock(state_.mutex);
    while (!timer_ends_) {
        if (deadlines_.empty()) {
            timed_.wait(state_.mutex);
            continue;
        }
        auto due = deadlines_.begin()->first.first;
        if (sys::Clock::now() < due) {
            timed_.wait_until(state_.mutex, due);
            continue;
        }
        {
            TimedJob timed = std::move(deadlines_.extract(deadlines_.begin()).mapped());
            lock.unlock();
            if (timed.only_asks)
                timed.job->ask_to_stop();
            else
                timed.job->time_out(made_or(spare_errors().timed_out, [&] {
                    const ThreadJob& job = *timed.job;
                    timed.details.task_type = demangle(typeid(job).name());
                    return std::make_exception_ptr(TaskTimeout(std::move(timed.details)));
                }));
        }
        lock.lock();
    }
}

}  // namespace sidestep::detail
