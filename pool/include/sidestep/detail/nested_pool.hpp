// The pool that runs a task, as the task has it. Internal: users hold a TaskPool.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <sidestep/detail/local_task.hpp>
#include <sidestep/detail/pool_task.hpp>
#include <sidestep/detail/task_state.hpp>
#include <sidestep/task.hpp>
#include <sidestep/task_options.hpp>

namespace sidestep::inline v0::detail {

// The descriptors in a nested task's arguments: duplicates, each by itself.
class NestedFds final : public FdSink {
  public:
    std::uint64_t put(int fd) override { return kept_.put(fd); }
    const std::vector<int>& numbers() const { return kept_.numbers; }

  private:
    TaskDescriptors kept_;
};

// A task that another one gives to their pool.
struct NestedOrder {
    explicit NestedOrder(const TaskKind& its_kind) : kind(its_kind) {}
    TaskKind kind;
    HeapBuffer arguments;
    NestedFds fds;
    const TaskOptions* options = nullptr;  // null: the pool's
    // Not null: a task of this process's NestedPool, whose result the arguments end with.
    TaskRef after;
};

// Threads: thread-safe. The waits are those of the thread that runs the task.
class NestedPool {
  public:
    virtual ~NestedPool() = default;
    // Throws what Pool::submit() throws; std::logic_error where the pool cannot be asked.
    virtual TaskRef submit(NestedOrder& order) = 0;
    virtual unsigned processes() const = 0;
    // It is a task of that pool, which is in this process.
    virtual bool has(const TaskState&) const { return false; }
    // The task with this number has asked for it: from now on its waits are told.
    virtual void taken_by(std::uint64_t /*task*/) noexcept {}
    // True: others work in its place from now on, and end_wait() is to be called. The wait lives
    // until then.
    virtual bool begin_wait(const NestedWait&) { return false; }
    virtual void end_wait() noexcept {}
    // There is a nested task for it to run; this runs it.
    virtual bool is_called() const noexcept { return false; }
    virtual void serve(const NestedWait&) {}
};

// That of a worker process of a pool of so many. It asks by its control socket, which outlives it.
std::shared_ptr<NestedPool> nested_pool_of_worker(int control, unsigned processes);

}  // namespace sidestep::detail
