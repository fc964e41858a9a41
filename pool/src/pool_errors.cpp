#include <sidestep/pool_errors.hpp>

#include <fmt/format.h>

#include <mutex>
#include <string_view>

#include <sidestep/remote_error.hpp>
#include <sidestep/task.hpp>

#include "task/attempts.hpp"
#include "text/columns.hpp"
#include "worker/asked_stack.hpp"
#include "worker/frame_names.hpp"

namespace sidestep::inline v0 {

namespace {

// What befell a pool that a task or a server has arrives as this: not as CancelledError, say, which
// would look as if it had befallen the task itself.
[[maybe_unused]] const bool registered_pool_error = register_exception<PoolError>();

}  // namespace

struct TaskError::Shared {
    Shared(Details d, Describe f) : details(std::move(d)), describe(f) {}

    const Details details;
    const Describe describe;
    std::once_flag once;
    std::string text;

    void make_text() {
        std::string kind =
            details.function ? detail::describe_function(details.function) : details.task_type;
        std::string what = details.item ? fmt::format("item {}", *details.item) : "";
        if (details.task != 0)
            what += fmt::format("{}task {}", details.item ? " of " : "", details.task);
        if (!details.name.empty()) what += fmt::format(" \"{}\"", details.name);
        text = describe(details, fmt::format("{} ({})", what, kind));
    }
};

TaskError::TaskError(const char* text, Details details, Describe describe)
    : PoolError(text), shared_(std::make_shared<Shared>(std::move(details), describe)) {}

const char* TaskError::what() const noexcept {
    try {
        // See spare_errors.hpp.
        if (shared_->details.task == 0 && !shared_->details.item) return PoolError::what();
        std::call_once(shared_->once, [this] { shared_->make_text(); });
        return shared_->text.c_str();
    } catch (...) {
        return PoolError::what();
    }
}

std::string TaskError::summary() const {
    const std::string_view text = what();
    return printable(std::string(text.substr(0, text.find(detail::kFrame))));
}

const TaskError::Details& TaskError::details() const { return shared_->details; }

namespace {

// "4211", or "4211 on host b".
std::string worker_text(const TaskError::Details& details) {
    return details.host.empty() ? fmt::format("{}", details.pid)
                                : fmt::format("{} on host {}", details.pid, details.host);
}

}  // namespace

namespace detail {

std::vector<const void*> stack_of(const TaskError::Details& details) {
    return details.asked_stack ? details.asked_stack->addresses() : details.stack;
}

std::string attempts_text(const TaskError::Details& details, const char* limit_name) {
    if (details.attempts <= 1 && !details.retry_limit) return {};
    std::string text =
        details.attempts < details.most_attempts
            ? fmt::format(", after {} of {} attempts", details.attempts, details.most_attempts)
            : fmt::format(", after {} attempts", details.attempts);
    if (details.retry_limit)
        text += fmt::format(" (no more: Retry::{} is {})", limit_name, *details.retry_limit);
    return text;
}

}  // namespace detail

std::vector<std::string> WorkerLost::stack() const {
    return detail::name_frames(details().stack, details().stack.size());
}

std::vector<std::string> TaskTimeout::stack() const {
    const std::vector<const void*> addresses = detail::stack_of(details());
    return detail::name_frames(addresses, addresses.size());
}

WorkerLost::WorkerLost(Details details)
    : TaskError(
          "a worker died while it ran a task; there was no memory left to say more about it",
          std::move(details), [](const Details& d, const std::string& name) {
              return fmt::format(
                  "worker {} {} while it ran {}{}; {}{}this task alone is lost: look at what it "
                  "does there, or run it again{}",
                  worker_text(d), d.exit_status.describe(), name,
                  detail::attempts_text(d, "max_crashes"), d.note.empty() ? "" : d.note + "; ",
                  d.oom_killed ? "the kernel's OOM killer was at work on this machine: give "
                                 "the task less to do at a time, or a memory_limit; "
                               : "",
                  detail::stack_text(d.stack));
          }) {}

TaskTimeout::TaskTimeout(Details details)
    : TaskError(
          "a task ran longer than its timeout; there was no memory left to say more about it",
          std::move(details), [](const Details& d, const std::string& name) {
              if (d.of_map != OfMap::no)
                  return fmt::format(
                      "{} was not finished when the deadline of its map came after {} ms; "
                      "what waited was taken back, and what ran was {}: give the map less to "
                      "do, or more time",
                      name, d.limit / 1'000'000,
                      d.of_map == OfMap::threads ? "asked to stop" : "stopped");
              if (d.pid == 0)  // of a ThreadPool
                  return fmt::format(
                      "{} ran longer than its timeout of {} ms{}; a thread cannot be stopped: "
                      "it runs on until it looks at this_task::stop_requested(), or ends",
                      name, d.limit / 1'000'000, detail::attempts_text(d));
              return fmt::format(
                  "{} ran longer than its timeout of {} ms in worker {}, and "
                  "was stopped{}: give it less to do, or more time{}",
                  name, d.limit / 1'000'000, worker_text(d), detail::attempts_text(d),
                  detail::stack_text(detail::stack_of(d)));
          }) {}

OutOfMemory::OutOfMemory(Details details)
    : TaskError(
          "a task used more than its memory_limit; there was no memory left to say more "
          "about it",
          std::move(details), [](const Details& d, const std::string& name) {
              if (d.used == 0)
                  return fmt::format(
                      "{} could not be held to its memory_limit of {} MiB, and was killed: "
                      "/proc/{}/statm cannot be read; mount the /proc of this pid namespace, "
                      "or leave the limit out",
                      name, d.limit >> 20, d.pid);
              const std::string attempts = detail::attempts_text(d, "max_out_of_memory");
              return fmt::format(
                  "{} used {} MiB in worker {}, more than its memory_limit of "
                  "{} MiB, and was killed{}: give it less to do at a time, or a "
                  "higher limit",
                  name, d.used >> 20, worker_text(d), d.limit >> 20, attempts);
          }) {}

}  // namespace sidestep
