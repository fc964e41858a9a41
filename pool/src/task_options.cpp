#include <sidestep/task_options.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <stdexcept>

#include <sidestep/detail/sent_options.hpp>
#include <sidestep/detail/task_state.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/this_task.hpp>

#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

void check_options(const TaskOptions& options) {
    auto refuse = [](const char* what) {
        throw std::invalid_argument(fmt::format("TaskOptions::{}", what));
    };
    const Retry& retry = options.retry;
    if (options.timeout.count() < 0)
        refuse("timeout is negative; 0 is the pool's default, kNoTimeout none");
    if (options.soft_timeout.count() < 0) refuse("soft_timeout is negative; 0 is none");
    if (options.timeout.count() > 0 && options.soft_timeout >= options.timeout)
        refuse(
            "soft_timeout is not shorter than timeout: the task would be ended before it is "
            "asked to stop");
    if (options.memory_limit > 0 && options.memory_limit < (std::size_t(1) << 20))
        refuse(
            "memory_limit is less than 1 MiB: it is given in bytes, and a worker that does "
            "nothing uses more");
    if (retry.max_attempts > Retry::kMostAttempts)
        throw std::invalid_argument(
            fmt::format("TaskOptions::retry.max_attempts is {}; a task may run {} times at most",
                        retry.max_attempts, Retry::kMostAttempts));
    if (retry.backoff.count() < 0 || retry.max_backoff.count() < 0)
        refuse("retry.backoff is negative");
    if (!(retry.factor >= 1)) refuse("retry.factor is less than 1");
    for (const Tokens& each : options.uses) {
        if (each.count == 0)
            throw std::invalid_argument(fmt::format(
                "TaskOptions::uses has 0 of \"{}\"; a task needs one or more, or does not name it",
                each.name));
        if (std::count_if(options.uses.begin(), options.uses.end(),
                          [&](const Tokens& other) { return other.name == each.name; }) > 1)
            throw std::invalid_argument(fmt::format(
                "TaskOptions::uses has \"{}\" twice; say once how many the task needs", each.name));
    }
    if (!(retry.jitter >= 0 && retry.jitter <= 1)) refuse("retry.jitter is not within 0 to 1");
}

void check_sent_options(const TaskOptions& options) {
    check_options(options);
    if (options.retry.when)
        throw std::invalid_argument(
            "TaskOptions::retry.when is a function of the process that submits, and the pool's is "
            "another one: leave it out, and look at the error where the task is waited for");
    if (options.key != 0)
        throw std::invalid_argument(
            "TaskOptions::key: the worker of that key may be the one whose task waits for this "
            "one; leave it out, or have the process that has the pool submit the task");
}

void check_map_options(const MapOptions& options) {
    check_options(options.task);
    if (options.task.key != 0)
        throw std::invalid_argument(
            "MapOptions::task.key: the chunks of a map go to whoever is free; submit tasks with a "
            "key one by one");
    if (options.task.soft_timeout.count() != 0)
        throw std::invalid_argument(
            "MapOptions::task.soft_timeout: a chunk of a map cannot be asked to stop item by item; "
            "give the items a timeout, or submit them one by one");
    if (options.deadline.count() < 0)
        throw std::invalid_argument(
            "MapOptions::deadline is negative; it is the time for the whole map, 0 is none");
}

TaskOptions merged(TaskOptions options, const TaskOptions& defaults) {
    if (options.timeout.count() == 0) options.timeout = defaults.timeout;
    if (options.memory_limit == 0) options.memory_limit = defaults.memory_limit;
    if (options.retry.max_attempts == 0) options.retry = defaults.retry;
    if (options.priority == 0) options.priority = defaults.priority;
    if (options.name.empty()) options.name = defaults.name;
    return options;
}

bool wants_retry(const Retry& retry, const std::exception_ptr& error) {
    try {
        return !retry.when || retry.when(error);
    } catch (...) {  // it cannot tell
        return false;
    }
}

std::chrono::nanoseconds retry_pause(const Retry& retry, unsigned failures) {
    static constexpr double kLongest = 1e18;  // nanoseconds: 31 years, which is no overflow
    if (retry.backoff.count() <= 0) return {};
    // Any seed will do, and std::random_device may throw.
    thread_local std::minstd_rand random{
        static_cast<std::minstd_rand::result_type>(sys::Clock::now().time_since_epoch().count())};
    double pause =
        static_cast<double>(retry.backoff.count()) * std::pow(retry.factor, failures - 1.0);
    pause = std::min(pause, static_cast<double>(retry.max_backoff.count()));
    pause *= 1 + retry.jitter * std::uniform_real_distribution<double>(-1, 1)(random);
    return std::chrono::nanoseconds(std::llround(std::min(pause, kLongest)));
}

bool pause_here(std::chrono::nanoseconds pause) { return this_task::sleep_for(pause); }

}  // namespace sidestep::detail
