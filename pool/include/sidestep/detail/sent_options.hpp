// TaskOptions on their way to the process that has the pool. Internal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <sidestep/task_options.hpp>

namespace sidestep::inline v0::detail {

// Throws std::invalid_argument for what makes no sense, and for what only the process that has the
// pool can say.
void check_sent_options(const TaskOptions& options);

struct SentOptions {
    TaskOptions options;

    template <class Archive>
    void save(Archive& archive) const {
        const Retry& retry = options.retry;
        archive(options.timeout.count(), options.soft_timeout.count(),
                std::uint64_t(options.memory_limit), options.priority, options.name,
                retry.max_attempts, retry.max_crashes, retry.max_out_of_memory,
                retry.backoff.count(), retry.factor, retry.max_backoff.count(), retry.jitter,
                std::uint64_t(options.uses.size()));
        for (const Tokens& each : options.uses) archive(each.name, std::uint64_t(each.count));
    }
    // Of another process: check_sent_options() is to see them.
    template <class Archive>
    void load(Archive& archive) {
        Retry& retry = options.retry;
        std::int64_t timeout = 0, soft_timeout = 0, backoff = 0, max_backoff = 0;
        std::uint64_t memory_limit = 0, tokens = 0;
        archive(timeout, soft_timeout, memory_limit, options.priority, options.name,
                retry.max_attempts, retry.max_crashes, retry.max_out_of_memory, backoff,
                retry.factor, max_backoff, retry.jitter, tokens);
        options.timeout = std::chrono::nanoseconds(timeout);
        options.soft_timeout = std::chrono::nanoseconds(soft_timeout);
        options.memory_limit = memory_limit;
        retry.backoff = std::chrono::nanoseconds(backoff);
        retry.max_backoff = std::chrono::nanoseconds(max_backoff);
        for (; tokens != 0; --tokens) {  // a name that is not there ends it
            Tokens each;
            std::uint64_t count = 0;
            archive(each.name, count);
            each.count = count;
            options.uses.push_back(std::move(each));
        }
    }
};

}  // namespace sidestep::detail
