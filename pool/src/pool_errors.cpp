#include <sidestep/pool_errors.hpp>

#include <fmt/format.h>

#include <mutex>

#include <sidestep/task.hpp>

namespace sidestep {

struct WorkerLost::Shared {
    explicit Shared(Details d) : details(std::move(d)) {}

    Details details;
    std::once_flag once;
    std::string text;

    void describe() {
        std::string name =
            details.function ? detail::describe_function(details.function) : details.task_type;
        text = fmt::format(
            "worker {} {} while it ran task {} ({}); {}this task alone is lost: look at what it "
            "does there, or run it again",
            details.pid, details.exit_status.describe(), details.task, name,
            details.note.empty() ? "" : details.note + "; ");
    }
};

WorkerLost::WorkerLost(Details details)
    : PoolError("a worker died while it ran a task"),
      shared_(std::make_shared<Shared>(std::move(details))) {}

const char* WorkerLost::what() const noexcept {
    try {
        std::call_once(shared_->once, [this] { shared_->describe(); });
        return shared_->text.c_str();
    } catch (...) {
        return PoolError::what();
    }
}

const WorkerLost::Details& WorkerLost::details() const { return shared_->details; }

}  // namespace sidestep
