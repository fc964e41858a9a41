#include <sidestep/when.hpp>

#include <deque>
#include <exception>
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
    std::exception_ptr error;  // the first; each that waits has its turn all the same
    auto run = [&error](const std::function<void()>& each) {
        try {
            each();
        } catch (...) {
            if (!error) error = std::current_exception();
        }
    };
    run(work);
    for (; !waiting.empty(); waiting.pop_front()) run(waiting.front());
    if (error) std::rethrow_exception(error);
}

void tell_each(const std::vector<TaskRef>& tasks, std::function<void(std::size_t)> told) {
    for (const TaskRef& task : tasks)
        if (!task) throw_empty_future();
    for (std::size_t i = 0; i < tasks.size(); ++i) {
        std::function<void()> callback = [told, i] { run_in_turn([told, i] { told(i); }); };
        // What is done is told here and now: the caller may be a callback that waits for it.
        if (!tasks[i]->add_callback(callback)) told(i);
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
