#include "threads/thread_options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "sys/sys.hpp"
#include "task/token_gate.hpp"

namespace sidestep::inline v0::detail {
namespace {

std::atomic<unsigned> pools_made{0};

}  // namespace

void check_thread_options(const TaskOptions& options) {
    check_options(options);
    if (options.memory_limit != 0 && options.memory_limit != kNoLimit)
        throw std::invalid_argument(
            "TaskOptions::memory_limit: threads share the memory of the process; use a Pool");
}

ThreadPoolOptions checked_thread_options(ThreadPoolOptions options) {
    if (!options.threads)
        options.threads = std::min(32u, static_cast<unsigned>(sys::usable_cpus()) + 4);
    if (*options.threads < 1 || *options.threads > kMostPoolThreads)
        throw std::invalid_argument(
            fmt::format("ThreadPoolOptions::threads is {}; a pool has 1 to {} threads",
                        *options.threads, kMostPoolThreads));
    if (options.thread_name_prefix.empty())
        options.thread_name_prefix = fmt::format("tpool{}", pools_made++);
    check_thread_options(options.task);
    if (options.task.key != 0)
        throw std::invalid_argument(
            "ThreadPoolOptions::task.key is set; a key is a task's own: pool.submit({.key = 7}, f, "
            "x)");
    if (options.task.soft_timeout.count() != 0)
        throw std::invalid_argument(
            "ThreadPoolOptions::task.soft_timeout is set; it is a task's own: "
            "pool.submit({.soft_timeout = 2s}, f, x)");
    if (!options.task.uses.empty())
        throw std::invalid_argument(
            "ThreadPoolOptions::task.uses is set; tokens are a task's own, or a map's: "
            "pool.submit({.uses = {{\"gpu\", 1}}}, f, x)");
    TokenGate::check(options.tokens, "ThreadPoolOptions");
    return options;
}

}  // namespace sidestep::detail
