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

void ThreadPoolCore::arm_timer(Entry& entry) noexcept {
    if (!entry.deadline && !entry.soft_deadline) return;
    ThreadJob& job = *entry.job;
    Lock lock(mutex_);
    const auto now = sys::Clock::now();
    if (entry.deadline) {
        job.due = now + job.options.timeout.time();
        entry.deadline.key() = Due(job.due, job.number);
        deadlines_.insert(std::move(entry.deadline));
    }
    if (entry.soft_deadline) {
        job.soft_due = now + job.options.soft_timeout.time();
        entry.soft_deadline.key() = Due(job.soft_due, kSoft | job.number);
        deadlines_.insert(std::move(entry.soft_deadline));
    }
    timed_.notify_all();
}

void ThreadPoolCore::disarm_timer(Entry& entry) noexcept {
    ThreadJob& job = *entry.job;
    const sys::Clock::time_point never;  // only this thread writes them
    if (job.due == never && job.soft_due == never) return;
    Lock lock(mutex_);
    if (auto armed = deadlines_.extract(Due(job.due, job.number)))
        entry.deadline = std::move(armed);
    if (auto armed = deadlines_.extract(Due(job.soft_due, kSoft | job.number)))
        entry.soft_deadline = std::move(armed);
}

void ThreadPoolCore::run_timer() {
    Lock lock(mutex_);
    while (!timer_ends_) {
        if (deadlines_.empty()) {
            timed_.wait(mutex_);
            continue;
        }
        auto due = deadlines_.begin()->first.first;
        if (sys::Clock::now() < due) {
            timed_.wait_until(mutex_, due);
            continue;
        }
        {
            Timed timed = std::move(deadlines_.extract(deadlines_.begin()).mapped());
            lock.unlock();
            if (timed.only_asks)
                timed.task->ask_to_stop();
            else
                timed.task->time_out(made_or(spare_errors().timed_out, [&] {
                    timed.details.task_type = demangle(timed.type->name());
                    return std::make_exception_ptr(TaskTimeout(std::move(timed.details)));
                }));
        }
        lock.lock();
    }
}

}  // namespace sidestep::detail
