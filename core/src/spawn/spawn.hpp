// Starting a child: the one way in which this library makes processes that execute a program.
//
// Threads: any number of threads may start children at once.
#pragma once

#include <sidestep/subprocess_options.hpp>

#include "spawn/spawn_description.hpp"
#include "sys/fd.hpp"
#include "sys/parent_fd.hpp"
#include "sys/process_handle.hpp"

namespace sidestep::inline v0::spawn {

// A child that runs its program. The owner reaps it.
struct Child : sys::ProcessHandle<Fd> {
    ParentFd lifeline;  // with die_with_parent: close it, and the child dies
};

// Returns when the program runs. Throws subprocess::StartError, and then there is no child.
Child start(const Description& description);

// The same from Args and Options, for those who reap by themselves (the pool's supervisor). No
// stream may be a PIPE, and the options that Popen acts on later (on_destroy...) mean nothing.
Child start(const subprocess::Args& args, const subprocess::Options& options);

}  // namespace sidestep::spawn
