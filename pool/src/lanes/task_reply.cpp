#include "lanes/task_reply.hpp"

#include "spare_errors.hpp"
#include "worker/worker_memory.hpp"

namespace sidestep::inline v0::detail {

void keep_reply(const TaskReply& reply, PoolTask& task) noexcept {
    if (reply.block) {
        WorkerMemory& memory = **reply.memory;
        if (!memory.lend()) {
            memory.take_back(reply.block);
            return task.bytes.fail(spare_errors().no_memory);
        }
        task.bytes.lend({*reply.memory, reply.block}, reply.bytes.size());
    } else if (!task.bytes.assign(reply.bytes)) {
        return task.bytes.fail(spare_errors().no_memory);
    }
    task.end_items();
    task.has_value = reply.is_value;
    task.time_ns = reply.duration_ns;
}

void drop_reply(const TaskReply& reply) noexcept {
    if (reply.block) (*reply.memory)->take_back(reply.block);
}

}  // namespace sidestep::detail
