#include <sidestep/this_task.hpp>

#include <sys/utsname.h>

#include <chrono>
#include <stdexcept>
#include <thread>

#include <sidestep/detail/deadline.hpp>
#include <sidestep/task_pool.hpp>

#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace detail {

namespace {
thread_local TaskContext current;
}

TaskContext* task_context() noexcept { return &current; }

const TaskContext& outermost_task() noexcept {
    const TaskContext* task = &current;
    while (task->outer) task = task->outer;
    return *task;
}

TaskScope::TaskScope(const TaskContext& context) noexcept : before_(current) { current = context; }
TaskScope::~TaskScope() { current = before_; }

}  // namespace detail

namespace this_task {
namespace {

std::uint64_t mix(std::uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

}  // namespace

bool stop_requested() noexcept { return detail::task_context()->stop_wanted(); }

TaskPool pool() {
    const detail::TaskContext& task = detail::outermost_task();
    if (const std::shared_ptr<detail::NestedPool>* pool = detail::task_context()->pool;
        pool && task.number != 0) {
        (*pool)->taken_by(task.number);
        return TaskPool(*pool);
    }
    throw std::logic_error(
        "this_task::pool(): this thread runs no task; call it in the task's own thread, and hand "
        "on what it returns, or use the Pool itself");
}

bool sleep_for(Timeout time) noexcept {
    // A pool that could wake us may be gone.
    constexpr std::chrono::seconds kLongest{1};
    const detail::TaskContext& task = detail::outermost_task();
    const sys::Deadline end = detail::deadline_after(time);
    for (;;) {
        // What is read here is what is slept on: a request that comes in between changes it.
        std::uint64_t number = task.stop_number ? task.stop_number->load() : 0;
        if (task.stop_wanted()) return false;
        if (detail::is_over(end)) return true;
        sys::Deadline next = detail::sooner(end, sys::Clock::now() + kLongest);
        if (task.stop_number)
            (void)sys::futex_wait(sys::low_half(*task.stop_number),
                                  static_cast<std::uint32_t>(number), next);
        else if (task.stop_flag)
            (void)sys::futex_wait(*task.stop_flag, 0, next);
        else
            std::this_thread::sleep_until(*next);
    }
}

std::uint64_t number() noexcept { return detail::task_context()->number; }
unsigned attempt() noexcept { return detail::task_context()->attempt; }

std::optional<std::uint64_t> item() noexcept {
    const detail::TaskContext& task = *detail::task_context();
    if (task.items_end == 0) return {};
    return task.item;
}

std::uint64_t random_seed() noexcept {
    const detail::TaskContext& c = *detail::task_context();
    return mix(mix(c.seed) + c.item);
}

const std::string& host() {
    static const std::string* name = [] {  // never destroyed: tasks run until the end
        utsname names{};
        return new std::string(::uname(&names) == 0 ? names.nodename : "localhost");
    }();
    return *name;
}

}  // namespace this_task

namespace this_worker {
int index() noexcept { return detail::task_context()->worker; }
}  // namespace this_worker

}  // namespace sidestep
