// How often a task may be run, and what its error says of that.
#pragma once

#include <optional>
#include <string>

#include <sidestep/detail/pool_task.hpp>
#include <sidestep/pool_errors.hpp>
#include <sidestep/task_options.hpp>

#include "task/failure_kind.hpp"

namespace sidestep::inline v0::detail {

// Before this failure is counted: after it there are attempts left.
inline bool has_attempts(const Retry& retry, const TaskRecord::Failures& before) {
    return before.attempts + 1u < retry.max_attempts;
}

// The limit that a failure of this kind reaches, whatever attempts are left; nothing: none.
inline std::optional<unsigned> reached_limit(const Retry& retry, const TaskRecord::Failures& before,
                                             FailureKind kind) {
    const bool crashed = kind == FailureKind::crash;
    if (!crashed && kind != FailureKind::out_of_memory) return {};
    const unsigned limit = crashed ? retry.max_crashes : retry.max_out_of_memory;
    const unsigned count = crashed ? before.crashes : before.out_of_memory;
    return count + 1 < limit ? std::nullopt : std::optional(limit);
}

// For an error about a failure of this kind that is not counted yet.
inline void tell_attempts(TaskError::Details& details, const Retry* retry,
                          const TaskRecord::Failures& before, FailureKind kind) {
    details.attempts = details.most_attempts = before.attempts + 1u;
    details.retry_limit.reset();
    if (!retry || !has_attempts(*retry, before)) return;
    details.most_attempts = retry->max_attempts;
    details.retry_limit = reached_limit(*retry, before, kind);
}
inline void tell_attempts(TaskError::Details& details, const PoolTask& task, FailureKind kind) {
    tell_attempts(details, task.options ? &task.options->retry : nullptr, task.failures, kind);
}

// ", after 3 attempts", or empty.
std::string attempts_text(const TaskError::Details& details, const char* limit_name = "");

}  // namespace sidestep::detail
