#include <sidestep/when.hpp>

#include <deque>
#include <stdexcept>

#include "forked_copy.hpp"

namespace sidestep::inline v0::detail {

void throw_any_of_none() {
    throw std::invalid_argument("when_any() of no futures: none of them will ever be the first");
}

void run_in_turn(std::function<void()> work) {
    thread_local std::deque<std::function<void()>>* turn = nullptr;
    if (turn) return turn->push_back(std::move(work));
    std::deque<std::function<void()>> waiting;
    struct Turn {
        explicit Turn(std::deque<std::function<void()>>& own) { turn = &own; }
        ~Turn() { turn = nullptr; }
    } here(waiting);
    work();
    for (; !waiting.empty(); waiting.pop_front()) waiting.front()();
}

void tell_each(const std::vector<TaskRef>& tasks, std::function<void(std::size_t)> told) {
    for (const TaskRef& task : tasks)
        if (!task) throw_empty_future();
    for (std::size_t i = 0; i < tasks.size(); ++i) {
        std::function<void()> callback = [told, i] { run_in_turn([told, i] { told(i); }); };
        if (!tasks[i]->add_callback(callback)) callback();
    }
}

bool pass_failure(const TaskState& from, LocalTaskBase& to) {
    std::exception_ptr error = from.done() ? from.error() : never_told();
    if (!error) return false;
    if (from.cancelled())
        to.fail_cancelled(std::move(error));
    else
        to.try_fail(std::move(error));
    return true;
}

}  // namespace sidestep::detail
