// SharedMemoryManager: blocks of shared memory whose names end with it.
//
//     sidestep::SharedMemoryManager manager;
//     auto block = manager.shared_memory(1 << 20);          // sidestep::SharedMemory
//     auto list = manager.shareable_list({"a", 1, nullptr});
//
// A server of its own makes the blocks, so they live as long as the manager, whichever process
// asked for them, and no longer: shutdown() and the destructor remove all names.
//
// Ownership, Threads, Fork: as Manager (manager.hpp). The handles are SharedMemory's, and stay good
//             without the names.
// Peer death: of a server that is killed the names are left until the next process makes or opens a
//             block (shared_memory.hpp).
// Errors:     as SharedMemory; ActorLost.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include <sidestep/manager.hpp>
#include <sidestep/shareable_list.hpp>
#include <sidestep/shared_memory.hpp>

namespace sidestep::inline v0 {

namespace detail {
class SharedBlocks {
  public:
    // Returns its name.
    std::string add(std::size_t size);

  private:
    std::vector<SharedMemory> blocks_;
};
}  // namespace detail

class SharedMemoryManager {
  public:
    explicit SharedMemoryManager(ManagerOptions options = {});

    // A new block of zeros.
    SharedMemory shared_memory(std::size_t size);
    ShareableList shareable_list(std::span<const ShareableItem> items);
    ShareableList shareable_list(std::initializer_list<ShareableItem> items) {
        return shareable_list(std::span(items.begin(), items.size()));
    }

    void shutdown() noexcept { manager_.shutdown(); }
    int pid() const { return manager_.pid(); }

  private:
    Manager manager_;
    Proxy<detail::SharedBlocks> blocks_;
};

}  // namespace sidestep
