#include "lanes/task_reply.hpp"

#include <algorithm>
#include <new>

#include "spare_errors.hpp"
#include "worker_memory.hpp"

namespace sidestep::inline v0::detail {

void keep_reply(const TaskReply& reply, PoolTask& task) noexcept {
    PoolTask::Outcome& outcome = task.outcome;
    if (reply.block) {
        WorkerMemory& memory = **reply.memory;
        if (!memory.lend()) {
            memory.take_back(reply.block);
            outcome.failure = spare_errors().no_memory;
            return;
        }
        outcome.block = reply.block;
        outcome.memory = *reply.memory;
    } else if (reply.bytes.size() <= PoolTask::kInline) {
        std::ranges::copy(reply.bytes, task.inline_bytes);  // there may be none, at a null pointer
    } else {
        try {
            outcome.bytes.assign(reply.bytes.begin(), reply.bytes.end());
        } catch (const std::bad_alloc&) {
            outcome.failure = spare_errors().no_memory;
            return;
        }
    }
    task.items.done = task.items.end - task.items.begin;
    outcome.size = reply.bytes.size();
    outcome.has_value = reply.is_value;
    outcome.duration_ns = reply.duration_ns;
}

void drop_reply(const TaskReply& reply) noexcept {
    if (reply.block) (*reply.memory)->take_back(reply.block);
}

}  // namespace sidestep::detail
