// What few jobs of a ThreadPool have: options of their own, timeouts, tokens.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <utility>

#include <sidestep/detail/thread_job.hpp>
#include <sidestep/pool_errors.hpp>
#include <sidestep/task_options.hpp>

#include "task/token_gate.hpp"

namespace sidestep::inline v0::detail {

// Minus priority, number: what is begun first. (Wider than a priority: minus the least is none.)
using JobKey = std::pair<std::int64_t, std::uint64_t>;
inline JobKey job_key(std::int32_t priority, std::uint64_t number) {
    return {-std::int64_t(priority), number};
}
using KeyedJobs = std::map<JobKey, ThreadJobPtr>;

// Timeouts that run, by when they are due and the number of their job.
using JobDue = std::pair<std::chrono::steady_clock::time_point, std::uint64_t>;
struct TimedJob {
    Ref<ThreadJob> job;
    TaskError::Details details;
    bool only_asks;  // it is a soft timeout
};
using JobDeadlines = std::map<JobDue, TimedJob>;

// With the nodes that the job takes later on: what runs it must not fail for want of memory.
struct JobExtra {
    TaskOptions options;
    KeyedJobs::node_type place;  // where it waits
    TokenUsePtr tokens;          // null: it needs none
    // None: it has no timeout of that kind, or that is armed, or over.
    JobDeadlines::node_type deadline, soft_deadline;
    std::chrono::steady_clock::time_point due{}, soft_due{};  // its thread's
};

}  // namespace sidestep::detail
