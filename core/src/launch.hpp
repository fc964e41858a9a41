// Starting children that run this program's own code: one interface over the start methods.
//
// Peer death: each child dies with its parent (its lifeline; see boot.hpp).
// Threads:    a launcher belongs to one thread at a time.
#pragma once

#include <memory>

#include <sidestep/start_method.hpp>

#include "boot.hpp"
#include "fd.hpp"

namespace sidestep {

struct Launched {
    int pid = 0;
    Fd pidfd;
    Fd control;   // our end of the control socket
    Fd lifeline;  // the child is killed when this closes
};

class Launcher {
  public:
    virtual ~Launcher() = default;
    // Starts a child of this process, leader of a process group of its own, that goes on at
    // `entry`. Throws std::system_error if it cannot be started.
    virtual Launched launch(BootMain entry) = 0;
};

// The first message on the control socket; see boot.hpp.
void send_boot_message(const Launched& child, BootMain entry, const Fd& lifeline);

// `purpose` begins the messages of errors ("a pool's worker").
// Throws std::logic_error if init() was not called (spawn, forkserver), or if there are other
// threads (fork; `own_threads` of them are known to hold nothing that a task needs).
std::unique_ptr<Launcher> make_launcher(StartMethod method, const char* purpose,
                                        std::size_t own_threads);

}  // namespace sidestep
