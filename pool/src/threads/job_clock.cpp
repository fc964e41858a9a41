#include "threads/job_clock.hpp"

#include <algorithm>
#include <cstdint>
#include <exception>
#include <typeinfo>
#include <utility>

#include <sidestep/pool_errors.hpp>

#include "spare_errors.hpp"
#include "sys/error.hpp"
#include "sys/sys.hpp"
#include "text/demangle.hpp"

namespace sidestep::inline v0::detail {
namespace {

// Beside the key of the timeout: numbers stay below.
constexpr std::uint64_t kSoft = std::uint64_t(1) << 63;

}  // namespace

JobClock::~JobClock() { SIDESTEP_ASSERT(!thread_.joinable()); }

void JobClock::prepare(ThreadJob& job) {
    JobExtra& extra = *job.extra;
    extra.deadline = timed(job, extra.options.timeout, false);
    extra.soft_deadline = timed(job, extra.options.soft_timeout, true);
}

JobDeadlines::node_type JobClock::timed(ThreadJob& job, Timeout timeout, bool only_asks) {
    if (timeout.count() <= 0 || timeout == kNoTimeout) return {};
    if (!thread_.joinable())
        thread_.start("sidestep-timer", ServiceThread::Runs::users_code, [this] { run(); });
    job.add_reference();
    TimedJob timed{Ref<ThreadJob>(&job), {}, only_asks};
    timed.details.task = job.number;
    timed.details.function = job.function();
    timed.details.name = job.extra->options.name;
    timed.details.limit = static_cast<std::uint64_t>(timeout.count());
    timed.details.most_attempts = std::max(1u, job.extra->options.retry.max_attempts);
    JobDeadlines deadlines;
    deadlines.emplace(JobDue(), std::move(timed));
    return deadlines.extract(deadlines.begin());
}

void JobClock::arm(ThreadJob& job, JobExtra& extra, unsigned attempt) noexcept {
    if (!extra.deadline && !extra.soft_deadline) return;
    Lock lock(mutex_);
    const auto now = sys::Clock::now();
    if (extra.deadline) {
        extra.due = now + extra.options.timeout.time();
        extra.deadline.key() = JobDue(extra.due, job.number);
        extra.deadline.mapped().details.attempts = attempt;
        deadlines_.insert(std::move(extra.deadline));
    }
    if (extra.soft_deadline) {
        extra.soft_due = now + extra.options.soft_timeout.time();
        extra.soft_deadline.key() = JobDue(extra.soft_due, kSoft | job.number);
        deadlines_.insert(std::move(extra.soft_deadline));
    }
    changed_.notify_all();
}

void JobClock::disarm(ThreadJob& job, JobExtra& extra) noexcept {
    const sys::Clock::time_point never;  // only this thread writes them
    if (extra.due == never && extra.soft_due == never) return;
    Lock lock(mutex_);
    if (auto armed = deadlines_.extract(JobDue(extra.due, job.number)))
        extra.deadline = std::move(armed);
    if (auto armed = deadlines_.extract(JobDue(extra.soft_due, kSoft | job.number)))
        extra.soft_deadline = std::move(armed);
}

void JobClock::run() {
    Lock lock(mutex_);
    while (!ends_) {
        if (deadlines_.empty()) {
            changed_.wait(mutex_);
            continue;
        }
        auto due = deadlines_.begin()->first.first;
        if (sys::Clock::now() < due) {
            changed_.wait_until(mutex_, due);
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

bool JobClock::is_this_thread() {
    Lock lock(mutex_);
    return thread_.is_this_thread();
}

void JobClock::end() {
    ServiceThread thread;
    {
        Lock lock(mutex_);
        ends_ = true;
        changed_.notify_all();
        thread.swap(thread_);
    }
    if (thread.joinable()) thread.join();
}

}  // namespace sidestep::detail
