// Starts the process of a worker, and sends it all that it needs to be one.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>

#include <sidestep/detail/pool_task.hpp>
#include <sidestep/pool_options.hpp>

#include "lanes/ring_lane.hpp"
#include "line_printer.hpp"
#include "start/launch.hpp"
#include "sync/supervisor_role.hpp"
#include "worker/worker_protocol.hpp"

namespace sidestep::inline v0::detail {

class WorkerStarter {
  public:
    struct Shared {  // what all workers of the pool share; it outlives this object
        const Segment& control_page;
        const Fd& arguments;  // of the args arena: read only
        const SpinPolicy& spin;
        const std::uint64_t& wake_ns;
        int parent_pid;
    };
    WorkerStarter(const PoolOptions& options, const Shared& shared)
        : options_(options), shared_(shared), lines_(options.line_prefix) {}

    // The initializer and the finalizer, for all workers that will be: their code and arguments.
    // memory(size): a block of the args arena, and where it lies.
    struct Block {
        BlockId id;
        std::byte* data;
    };
    // And what each is to set up before that.
    void save_hooks(const std::function<Block(std::size_t)>& memory) SUPERVISOR_ONLY;
    bool hooks_have_handles() const SUPERVISOR_ONLY {
        return !initializer_fds_.empty() || !finalizer_fds_.empty();
    }
    // With the fork methods a template is forked now. Throws as make_launcher() does.
    void make_launcher() SUPERVISOR_ONLY;
    // A fork server goes now; what workers printed is written.
    void stop() SUPERVISOR_ONLY {
        launcher_.reset();
        lines_.stop();
    }
    void abandon() { lines_.abandon(); }
    // Milliseconds. Throws if there is none; then nothing is left of it.
    RingLane::Parts start(std::uint32_t number) SUPERVISOR_ONLY;

    bool captures_output() const { return options_.output == Output::capture; }

  private:
    void send_setup(std::uint32_t number, RingLane::Parts& parts) SUPERVISOR_ONLY;

    const PoolOptions& options_;
    const Shared shared_;
    LinePrinter lines_;
    LaunchOptions launch_options_ SUPERVISOR_OWNED;
    std::unique_ptr<Launcher> launcher_ SUPERVISOR_OWNED;
    SettingsBlock settings_ SUPERVISOR_OWNED;
    HookSetup initializer_ SUPERVISOR_OWNED, finalizer_ SUPERVISOR_OWNED;
    TaskDescriptors initializer_fds_ SUPERVISOR_OWNED, finalizer_fds_ SUPERVISOR_OWNED;
};

// What was short when a worker could not be started, and what helps; null: the error is of another
// kind, and will not pass.
const char* shortage(const std::exception_ptr& error) noexcept;

}  // namespace sidestep::detail
