#include <sidestep/when.hpp>

#include <exception>
#include <list>
#include <memory>
#include <stdexcept>
#include <utility>

#include "forked_copy.hpp"

namespace sidestep::inline v0::detail {

void throw_any_of_none() {
    throw std::invalid_argument("when_any() of no futures: none of them will ever be the first");
}

namespace {

// Calls `work`, and then, one after the other, what it passes here itself: what is completed by
// what was completed, and so on, is no recursion. It takes no memory: who waits for a task that is
// not told of it would wait for ever.
void run_in_turn(Callbacks work) {
    thread_local Callbacks* turn = nullptr;
    if (turn) return turn->splice(turn->end(), work);
    struct Turn {
        explicit Turn(Callbacks& own) { turn = &own; }
        ~Turn() { turn = nullptr; }
    } here(work);
    std::exception_ptr error;  // the first; each that waits has its turn all the same
    for (; !work.empty(); work.pop_front()) {
        try {
            work.front()();
        } catch (...) {
            if (!error) error = std::current_exception();
        }
    }
    if (error) std::rethrow_exception(error);
}

}  // namespace

void tell_each(const std::vector<TaskRef>& tasks, std::function<void(std::size_t)> told) {
    for (const TaskRef& task : tasks)
        if (!task) throw_empty_future();
    const auto tell = std::make_shared<const std::function<void(std::size_t)>>(std::move(told));
    for (std::size_t i = 0; i < tasks.size(); ++i) {
        auto work = std::make_shared<Callbacks>();
        work->push_back([tell, i] { (*tell)(i); });
        std::function<void()> callback = [work] { run_in_turn(std::move(*work)); };
        // What is done is told here and now: the caller may be a callback that waits for it.
        if (!tasks[i]->add_callback(callback)) (*tell)(i);
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
