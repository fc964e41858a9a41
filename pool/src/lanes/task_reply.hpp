// How a task ended, in its lane's words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <sidestep/detail/pool_task.hpp>

namespace sidestep::inline v0::detail {

struct TaskReply {
    bool is_value;                     // else the bytes are those of an exception
    std::span<const std::byte> bytes;  // as long as the call lasts that brings them
    std::uint64_t begun_ns;  // steady clock; this and the next are only shown, or averaged
    std::uint64_t duration_ns;
    // The bytes may stay where they are, in this block of a worker's memory, until keep_reply() or
    // drop_reply(). 0: they may not.
    std::uint64_t block = 0;
    const std::shared_ptr<WorkerMemory>* memory = nullptr;
};

// The task has what the reply says. If there is no memory for it, it has std::bad_alloc.
void keep_reply(const TaskReply& reply, PoolTask& task) noexcept;
// Nobody wants it.
void drop_reply(const TaskReply& reply) noexcept;

}  // namespace sidestep::detail
