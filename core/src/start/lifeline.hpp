// How a child dies with its parent: it holds the read end of a pipe, whose only write end is in the
// parent, and when that closes the kernel kills the child, whatever either was doing.
//
// A ladder, for sandboxes that refuse a step:
//
//     F_SETSIG, SIGKILL     nothing can stop it
//     SIGIO                 what O_ASYNC sends without F_SETSIG, and whose default is to end the
//                           process: a task that handles, ignores or blocks it outlives its parent
//     PR_SET_PDEATHSIG      bound to the thread that started the child: it dies with that too
#pragma once

namespace sidestep::inline v0 {

// For the child: `fd` is its read end, and stays open as long as it lives. Ends the process if the
// parent is gone already. Throws std::system_error if the kernel refuses all of it.
void arm_lifeline(int fd, int parent_pid);

// The parent has ended. Where it is in an outer pid namespace nobody can tell by its number (it
// is 0): then the lifeline alone does.
bool parent_is_gone(int parent_pid) noexcept;

}  // namespace sidestep
