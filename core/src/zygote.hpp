// A zygote: a single-threaded process that forks children on request. They are children of the
// application (CLONE_PARENT), so that it waits for them itself and gets their exact status.
//
// Peer death: it ends when the application dies (lifeline, end of file on its socket), survives
//             SIGINT, and is reaped by ~Zygote. If it dies, launch() throws.
#pragma once

#include "launch.hpp"

namespace sidestep {

class Zygote final : public Launcher {
  public:
    // Forks this process as it is.
    static std::unique_ptr<Zygote> fork_here();
    // Takes over a child that runs zygote_main.
    explicit Zygote(Launched self) : self_(std::move(self)) {}
    ~Zygote() override;

    Launched launch(BootMain entry, const LaunchOptions& options) override;
    bool is_running() const;
    // The zygote itself.
    Launched& process() { return self_; }

  private:
    Launched self_;
};

// The zygote's loop.
void zygote_main(Fd control);

}  // namespace sidestep
