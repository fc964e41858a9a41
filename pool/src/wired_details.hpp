// What befell a task, as it travels to another process.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <sidestep/archive.hpp>
#include <sidestep/pool_errors.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

struct WiredOutput {
    std::optional<TaskOutput> output;
    template <class Archive>
    void serialize(Archive& archive) {
        bool given = output.has_value();
        archive(given);
        if (!given) return output.reset();
        if (!output) output.emplace();
        std::uint64_t out = output->out_dropped, err = output->err_dropped;
        archive(output->out, output->err, out, err);
        output->out_dropped = out;
        output->err_dropped = err;
    }
};

// What TaskError::Details has that the process with the future does not know itself.
struct WiredDetails {
    std::int32_t pid = 0;
    std::uint32_t worker_index = 0;
    std::optional<std::uint64_t> item;
    std::uint8_t ended =
        0;  // 0: running, 1: exited, 2: by a signal, 3: by one, with a core, 4: lost
    std::int32_t status = 0;
    std::vector<CodeAddress> stack;
    std::string note;
    bool oom_killed = false;
    std::uint64_t limit = 0, used = 0;
    WiredOutput output;
    std::uint32_t attempts = 0, most_attempts = 0;
    std::optional<std::uint32_t> retry_limit;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(pid, worker_index, item, ended, status, stack, note, oom_killed, limit, used,
                output, attempts, most_attempts, retry_limit);
    }
};
WiredDetails wired(const TaskError::Details& details);
TaskError::Details unwired(WiredDetails details);

}  // namespace sidestep::detail
