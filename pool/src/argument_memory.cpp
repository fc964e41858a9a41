#include "argument_memory.hpp"

namespace sidestep::inline v0::detail {

BlockId ArgumentMemory::allocate(std::size_t size) {
    owner_.require_here();
    PoolLock lock(rooms_.mutex);
    return rooms_.arguments.allocate(size);
}

void ArgumentMemory::free(BlockId block) noexcept {
    if (!owner_.is_here()) return;
    PoolLock lock(rooms_.mutex);
    rooms_.arguments.free(block);
}

void ArgumentMemory::free_result(WorkerMemory& memory, BlockId block) noexcept {
    if (!owner_.is_here()) return;
    Hold hold(rooms_.mutex, rooms_.sleepers);
    memory.take_back(block);
    // The queue to the worker is full: the rest follows when the worker has taken some.
    if (memory.owes()) pace_.want(false, hold);
}

}  // namespace sidestep::detail
