// Forking this process: the one place where that is done.
#pragma once

#include <cstdint>

namespace sidestep::inline v0 {

// As fork(2), after writing what stdio and the standard streams hold (each child would write it
// once more); what another thread holds meanwhile is the parent's to write. In the child: the
// descriptors of the parent's other children are closed (parent_fd.hpp), and signals are as a
// spawned child finds them when it comes to init(): what is ignored stays ignored, nothing is
// blocked, and the handlers are those that there were when the parent came to init() (a
// sanitizer's, say). Without init(), handlers of crashes stay: they write reports. Throws
// std::system_error.
int fork_child();

// Notes the handlers of this moment.
void note_handlers_at_init() noexcept;

// The signals that this process ignores, one bit each: bit N - 1 for signal N.
using SignalBits = std::uint64_t;
SignalBits ignored_signals() noexcept;
// Ignores these and no others, in a process that ignores `now`.
void ignore_signals(SignalBits wanted, SignalBits now) noexcept;

// Ends and reaps a child that cannot be handed over: it must not stay.
void discard_child(int pid) noexcept;

// Reaps those of this process's children in that group that have ended. The group had a child for
// its leader, which was reaped before. True: none is left in it.
bool reap_group(int group) noexcept;

// In a child: becomes leader of a process group of its own (0), or joins a group.
void enter_group(int group) noexcept;

}  // namespace sidestep
