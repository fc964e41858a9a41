// What the classes of a ThreadPool have in common: its options, its mutex, and how far it is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include <sidestep/detail/thread_job.hpp>
#include <sidestep/thread_pool.hpp>

#include "life/lifecycle.hpp"
#include "life/pool_owner.hpp"
#include "sync/pool_mutex.hpp"
#include "threads/job_extra.hpp"
#include "threads/pool_thread.hpp"
#include "threads/pools_by_number.hpp"
#include "threads/thread_options.hpp"

namespace sidestep::inline v0::detail {

struct JobCounts {
    std::uint64_t next_number = 1;
    std::uint64_t unfinished = 0;
    std::uint64_t failed = 0, cancelled = 0;  // that did not begin
};

struct ThreadPoolState {
    explicit ThreadPoolState(ThreadPoolOptions its_options)
        : options(checked_thread_options(std::move(its_options))) {}

    unsigned most_threads() const { return *options.threads; }
    // Of the threads that run jobs with this key, which is not 0.
    std::size_t index_of(std::uint64_t key) const { return key % most_threads(); }
    // Its own, or the pool's.
    const TaskOptions& options_of(const ThreadJob& job) const {
        return job.extra ? job.extra->options : options.task;
    }

    // Constant after construction.
    const ThreadPoolOptions options;
    const PoolOwner owner{"this pool's threads are in"};
    const std::uint32_t number = pools_by_number().next();

    PoolMutex mutex;
    // Guarded by mutex.
    PoolCondition quiet;  // for join() and who waits for room: perhaps a job less is left
    Lifecycle life POOL_GUARDED;
    JobCounts jobs POOL_GUARDED;
    PoolThreads threads POOL_GUARDED;
};

}  // namespace sidestep::detail
