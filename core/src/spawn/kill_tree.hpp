// Ending a child with all that it has started.
//
// The caller keeps the child from being reaped meanwhile: its number has to stay its own.
#pragma once

#include "sys/process_handle.hpp"

namespace sidestep::inline v0::subprocess {

// SIGKILL for the child and all its descendants, each stopped first. Nothing is done if someone
// else has reaped it. Throws std::system_error if there was no room to look for descendants; those
// that were found, the child and its group are killed then, too.
void kill_process_tree(const sys::ProcessHandle<Fd>& child, bool leads_group, bool leads_session);
// Waits until the child, which leads its group, is alone in it and in its session. False at the
// deadline, or at once if there was no room to look.
bool wait_for_group(int pid, bool leads_session, const sys::Deadline& deadline);

}  // namespace sidestep::subprocess
