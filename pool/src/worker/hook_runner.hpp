// What a worker does before its first task and after its last one, as the pool's options say.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "worker/task_fds.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

// Threads: the worker's.
class HookRunner {
  public:
    // arguments: the arena with what the hooks are given. It and `fds` outlive this object.
    HookRunner(const WorkerSetup& setup, std::span<const std::byte> arguments, TaskFds& fds);

    // The process is as the options say: WorkerSettings, the threads of libraries. Throws what
    // could not be had.
    void set_up();
    bool has_initializer() const { return initializer_.given; }
    // Throws what the initializer does.
    void initialize();
    // What the finalizer throws is printed.
    void finalize();

  private:
    void run(const HookSetup& hook);

    const std::span<const std::byte> arguments_;
    TaskFds& fds_;
    const SettingsBlock settings_;
    const HookSetup initializer_, finalizer_;
    const unsigned inner_threads_;
    const std::uint32_t index_;
};

}  // namespace sidestep::detail
