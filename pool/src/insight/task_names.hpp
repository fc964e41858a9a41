// Names of tasks, looked up once for each kind and kept: a task has its type's from the compiler,
// and its function's, if it was made from a pointer to one, from the program's symbols.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <typeinfo>
#include <unordered_map>

#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

// What a task is called, cheap to make and to copy. Valid as long as the TaskNames it is from.
struct TaskLabel {
    std::shared_ptr<const std::string> own;  // that its user gave it; null: none
    const std::string* type = nullptr;
    const void* function = nullptr;  // null: the type is all
};

class TaskNames {
  public:
    // Threads: the caller serialises. (By signature, not by address: the module that has the entry
    // may be unloaded before the name is asked for.) If memory is used up, the task has no type.
    // `own`: TaskOptions::name, or null.
    TaskLabel label(const TaskEntry& entry, const void* function, const std::string* own) noexcept;
    TaskLabel label(const std::type_info& type, const std::string& own) noexcept;  // likewise

    // Takes milliseconds for a function that was not asked for before. Threads: thread-safe.
    std::string name(const TaskLabel& label);

  private:
    std::unordered_map<std::uint64_t, std::string> types_;  // nodes: they do not move
    std::uint64_t last_signature_ = 0;
    const std::string* last_type_ = nullptr;

    std::mutex mutex_;
    std::map<const void*, std::string> functions_;  // guarded by mutex_
};

}  // namespace sidestep::detail
