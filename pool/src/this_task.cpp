#include <sidestep/this_task.hpp>

#include <sys/utsname.h>

namespace sidestep::inline v0 {
namespace detail {

namespace {
thread_local TaskContext current;
}

TaskContext* task_context() noexcept { return &current; }

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

bool stop_requested() noexcept { return detail::task_context()->stop_requested(); }
std::uint64_t number() noexcept { return detail::task_context()->number; }
unsigned attempt() noexcept { return detail::task_context()->attempt; }

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
