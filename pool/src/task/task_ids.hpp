// Where the ids of tasks stay that came from elsewhere: a task refers to its id for as long as it
// lives.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

// No more than the program has functions that were sent: of those that it does not have
// (require_entry()) there are none.
// Threads: thread-safe.
class TaskIds {
  public:
    const TaskId& lasting(const TaskId& id) {
        std::lock_guard lock(mutex_);
        return ids_.try_emplace({id.where.module, id.where.offset, id.signature}, id).first->second;
    }

  private:
    std::mutex mutex_;
    // Guarded by mutex_.
    std::map<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>, TaskId> ids_;
};

}  // namespace sidestep::detail
