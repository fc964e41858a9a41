// init(): the first statement of main().
//
// A spawned worker is this same program, started again. It is recognised inside init(): there it
// takes over, works, and never returns to main(). In every other process init() returns at once.
//
// What runs before init() runs in every worker too: the constructors of global objects, and
// whatever main() does first. Keep that short, and free of pools: creating one there is refused.
//
// Threads: call it once, from the main thread, before any other thread exists.
// Errors:  a worker that cannot start ends with a message on stderr, and its pool reports it.
#pragma once

#if __SIZEOF_POINTER__ != 8
#error "Sidestep needs a 64-bit system: gigabytes of addresses are reserved for what workers share"
#endif

namespace sidestep {

void init();

// True after init() returned here.
bool initialized();

}  // namespace sidestep
