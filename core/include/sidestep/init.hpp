// init(): the first statement of main().
//
// A spawned worker is this same program, started again. It is recognised inside init(): there it
// takes over, works, and never returns to main(). In every other process init() returns at once.
//
// What runs before init() runs in every worker too: the constructors of global objects, and
// whatever main() does first. Keep that short, and free of pools: creating one there is refused.
//
// Where there is no main() of one's own. StartMethod::fork needs no init(). StartMethod::spawn, and
// with it the fork server, needs a program that comes to init() when it is started again, so:
//   - if a global object calls init(), a child would take over while global objects of other files
//     do not exist yet. Write a main() that calls init() and goes on with what was there, a test
//     framework's runner for example:
//         int main(int argc, char** argv) {
//             sidestep::init();
//             return Catch::Session().run(argc, argv);
//         }
//   - a library that is loaded into somebody else's program (a Python extension, a plugin) calls
//     init() when it is loaded. That program, started again, would not come to it; unless it does,
//     and set_executable() says so by naming it.
// In both cases spawn is refused, and the fork server is a copy of this process, forked when it
// starts: with start_forkserver(), early and before there are other threads, or for its first use.
//
// A program that gets privileges from its file (set-uid, set-gid, file capabilities) takes no
// orders from whoever executed it: init() returns at once, whatever the environment says. There too
// spawn is refused, and the fork server is a copy of this process.
//
// A child is told where in the program to go on by one message, over a socket that its parent made.
// It is believed if the parent is who made the socket, and runs as the same user.
//
// Threads: call it once, from the main thread, before any other thread exists.
// Errors:  a worker that cannot start ends with a message on stderr, and its pool reports it.
#pragma once

#if __SIZEOF_POINTER__ != 8
#error "Sidestep needs a 64-bit system: gigabytes of addresses are reserved for what workers share"
#endif

namespace sidestep::inline v0 {

namespace detail {

// From where constructors of static objects are called: init() looks whether one of them called it.
void note_constructor_caller(const void* caller) noexcept;

// Before all static objects of this file.
[[gnu::constructor(101)]] [[maybe_unused]] static void note_this_files_caller() noexcept {
    note_constructor_caller(__builtin_return_address(0));
}

}  // namespace detail

// In a process that was started as a worker or another child of this program (with cluster.hpp: or
// as the agent of a host): takes over, and does not return. In any other: returns at once.
void init();

// True after init() returned here.
bool initialized();

}  // namespace sidestep
