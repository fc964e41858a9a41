// A ThreadPool's clock: the timeouts of the attempts that run.
#include <typeinfo>
#include <utility>

#include <sidestep/pool_errors.hpp>

#include "demangle.hpp"
#include "sys.hpp"
#include "thread_pool_core.hpp"

namespace sidestep::detail {

void ThreadPoolCore::arm_timer(ThreadJob& job) {
    std::chrono::nanoseconds timeout = job.options.timeout;
    if (timeout.count() <= 0 || timeout == kNoTimeout) return;
    job.task().add_reference();
    Timed timed{Ref<LocalTaskBase>(&job.task()), &typeid(job), {}};
    timed.details.task = job.number;
    timed.details.function = job.function();
    timed.details.limit = static_cast<std::uint64_t>(timeout.count());
    Lock lock(mutex_);
    job.due = sys::Clock::now() + timeout;
    deadlines_.emplace(Due(job.due, job.number), std::move(timed));
    if (!timer_.joinable())
        timer_.start("sidestep-timer", ServiceThread::Runs::users_code, [this] { run_timer(); });
    timed_.notify_all();
}

void ThreadPoolCore::disarm_timer(ThreadJob& job) {
    if (job.due == sys::Clock::time_point()) return;  // only this thread writes it
    Lock lock(mutex_);
    deadlines_.erase(Due(job.due, job.number));
}

void ThreadPoolCore::run_timer() {
    Lock lock(mutex_);
    while (!timer_ends_) {
        if (deadlines_.empty()) {
            timed_.wait(lock);
            continue;
        }
        auto due = deadlines_.begin()->first.first;
        if (sys::Clock::now() < due) {
            timed_.wait_until(lock, due);
            continue;
        }
        {
            Timed timed = std::move(deadlines_.extract(deadlines_.begin()).mapped());
            lock.unlock();
            timed.details.task_type = demangle(timed.type->name());
            timed.task->time_out(std::make_exception_ptr(TaskTimeout(std::move(timed.details))));
        }
        lock.lock();
    }
}

}  // namespace sidestep::detail
