// Forking this process: the one place where that is done.
#pragma once

namespace sidestep {

// As fork(2), after flushing what stdio and the standard streams hold (each child would write it
// once more). In the child: the descriptors of the parent's other children are closed
// (parent_fd.hpp), and signals are as a program finds them that was just started: what was ignored
// stays ignored, nothing is blocked, and the application's handlers are gone. Handlers of crashes
// stay: they write reports. Throws std::system_error.
int fork_child();

// For a child that cannot be handed over: it must not stay.
void discard_child(int pid) noexcept;

// In a child: becomes leader of a process group of its own (0), or joins a group.
void enter_group(int group) noexcept;

}  // namespace sidestep
