// The fork server of this process: what start_method.hpp says of it, and its children.
#pragma once

#include "start/launch.hpp"

namespace sidestep::inline v0 {

// The fork server's: answers one blob, an exception or empty, when it is ready.
void forkserver_main(Fd control);

// A child of the fork server of this process, which is started if need be.
Launched launch_from_forkserver(BootMain entry, const LaunchOptions& options);

}  // namespace sidestep
