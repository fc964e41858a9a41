// What a ThreadPool and its tasks may ask for.
#pragma once

#include <sidestep/thread_pool.hpp>

namespace sidestep::inline v0::detail {

inline constexpr unsigned kMostPoolThreads = 4096;

// Throws std::invalid_argument for what threads cannot do, too.
void check_thread_options(const TaskOptions& options);
// With defaults filled in. Throws std::invalid_argument for what makes no sense.
ThreadPoolOptions checked_thread_options(ThreadPoolOptions options);

}  // namespace sidestep::detail
