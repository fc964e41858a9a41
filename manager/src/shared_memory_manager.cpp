#include <sidestep/shared_memory_manager.hpp>

#include <algorithm>
#include <utility>

namespace sidestep::inline v0 {

std::string detail::SharedBlocks::add(std::size_t size) {
    return blocks_.emplace_back(create_only, size).name();
}

SharedMemoryManager::SharedMemoryManager(ManagerOptions options)
    : manager_(std::move(options)), blocks_(manager_.make<detail::SharedBlocks>()) {}

SharedMemory SharedMemoryManager::shared_memory(std::size_t size) {
    return SharedMemory(open_only, blocks_.call<&detail::SharedBlocks::add>(size));
}

// Laid out here, and copied: the name is the server's from the beginning.
ShareableList SharedMemoryManager::shareable_list(std::span<const ShareableItem> items) {
    ShareableList made(items);
    SharedMemory block = shared_memory(made.memory().size());
    auto bytes = made.memory().bytes();
    std::copy(bytes.begin(), bytes.end(), block.bytes().begin());
    return ShareableList(open_only, block.name());
}

}  // namespace sidestep
