// The memory of tasks' arguments, and of results that wait in their worker's memory, as tasks see
// it.
#pragma once

#include <cstddef>

#include "life/pool_owner.hpp"
#include "policy/pool_rooms.hpp"
#include "worker/worker_memory.hpp"

namespace sidestep::inline v0::detail {

// Threads: thread-safe. In a forked copy of the process nothing is freed.
class ArgumentMemory {
  public:
    ArgumentMemory(const PoolOwner& owner, const PoolRooms& rooms, LookPace& pace)
        : owner_(owner), rooms_(rooms), pace_(pace) {}

    // Throws std::logic_error in a forked copy, std::bad_alloc.
    BlockId allocate(std::size_t size) POOL_UNLOCKED;
    void free(BlockId block) noexcept POOL_UNLOCKED;
    // Unchecked: where a block lies does not change.
    std::byte* data(BlockId block) const SIDESTEP_UNCHECKED { return rooms_.arguments.data(block); }
    // Of a task that is done, or of one that nobody wants.
    void free_result(WorkerMemory& memory, BlockId block) noexcept POOL_UNLOCKED;

  private:
    const PoolOwner& owner_;
    const PoolRooms& rooms_;
    LookPace& pace_;
};

}  // namespace sidestep::detail
