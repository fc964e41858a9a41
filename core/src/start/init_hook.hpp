// What init() does besides, in a program whose processes were started by others.
//
// Threads: the hook is set by the constructor of a static object, before main() begins.
#pragma once

namespace sidestep::inline v0 {

// Called at the end of init(), in the program itself, not in its workers. May not return.
// Set by the object file that defines cluster(), and by no other: whoever links without calling
// that has no hook.
using InitHook = void (*)();
void set_init_hook(InitHook hook) noexcept;

}  // namespace sidestep
