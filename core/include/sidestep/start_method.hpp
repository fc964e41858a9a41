// How a child process that runs this program's own code comes to be.
//
// Threads: thread-safe.
// Fork:    a child knows all settings of its parent; its default is the method it was started by.
// Peer death: a fork server that died is started again by the next start; its children live on.
// Errors:  std::logic_error for settings that come too late, and for fork while there are other
//          threads; std::invalid_argument for a name that is none, and for a function that no other
//          process can find.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

namespace sidestep::inline v0 {

// | method        | the child                             | needs                               |
// |---------------|---------------------------------------|-------------------------------------|
// | spawn         | this program, started afresh (exec)   | init() first in main()              |
// | fork          | a copy of this process as it is now   | that it has no other threads        |
// | fork_threaded | the same, although there are threads  | that they hold no lock a task needs |
// | forkserver    | a copy of a helper that was spawned   | init() first in main()              |
//
// spawn is the default: nothing is shared by accident. fork starts faster and sees the memory of
// the parent; a lock that another thread holds at that moment stays locked in the child for ever,
// and that is why fork refuses when there are other threads. A pool forks one template when it is
// made and its workers, replacements too, from that: all of them see the moment of the pool's
// creation.
//
// spawn needs a program that comes to init() when it is started again, with no other privileges
// than this process has; init.hpp says where that is not so, and what becomes of the fork server
// there.
//
// By each method a child, a Process as well as a pool's worker, begins in the same state:
//
// | what                          | in the child                                                |
// |-------------------------------|-------------------------------------------------------------|
// | ignored signals               | those that this process ignores when the child starts       |
// | handlers                      | those that there were when this process came to init(); a   |
// |                               | pool's worker has its own for crashes, and for SIGURG       |
// | blocked, pending signals      | none                                                        |
// | timers (setitimer, alarm)     | none                                                        |
// | user, groups                  | this process's when the child starts                        |
// | stdin                         | /dev/null                                                   |
// | stdout, stderr                | this process's (*)                                          |
// | what waits in their buffers,  | none: it is written before a fork, and what another thread  |
// | and in those of other FILEs   | holds at that moment stays with this process                |
// | working folder                | this process's (*); of a Process, when it starts            |
// | umask, nice value, limits,    | this process's (*), without the library's own variable      |
// | CPUs, environment, session    |                                                             |
// | descriptors of 3 and more     | none; but with fork, as its memory: copies of all           |
//
// (*) With spawn, and for a Process with fork, as it is when the child starts. A pool's template
// with fork has it from the pool's creation, a fork server from its own start, and their children
// have theirs.
enum class StartMethod { spawn, fork, fork_threaded, forkserver };

// "spawn", "fork", "fork_threaded", "forkserver".
std::string_view to_string(StartMethod method);
// Throws std::invalid_argument for a name that is none of these.
StartMethod start_method_named(std::string_view name);
// spawn, fork and forkserver, the default first.
std::vector<StartMethod> get_all_start_methods();

// --- the default of Process ------------------------------------------------------------------

// What a Process is started by if its options name no method: spawn, unless it was set. Asking
// settles it.
StartMethod get_start_method();
// To be called once, early in main(). Throws std::logic_error if the default is settled already:
// set, asked for, or used.
void set_start_method(StartMethod method);
// Sets it whatever was before: for tests.
void force_start_method(StartMethod method);

// The program that spawn (and so the fork server) starts; an empty path: this one, whatever its
// file is called by now, also where the loader (`ld.so ./program`) or a tool such as valgrind runs
// it. It must be the same build: a child that finds it is not, says so on stderr
// and exits with 1.
void set_executable(const std::filesystem::path& program);
std::filesystem::path get_executable();

// --- the fork server ---------------------------------------------------------------------------
//
// One helper for each process, spawned when the first child needs it, single-threaded, so that
// forking it is safe. Its children are children of this process, and their exit codes are exact.
// They have its environment, limits and standard streams, those of the moment of its start; the
// working folder is this process's at the start of the child.
//
// It survives SIGINT. If it dies, the next start() begins another; children that it forked are not
// touched. When this process ends, it ends, too.

// What the server runs before it takes requests: loads, reads, builds what all children shall have
// already. It must leave no thread running. What it throws, or that it left a thread, is thrown by
// the start of the server, in start() or start_forkserver(). So is it that the server lacks the
// function's library, which this process loaded by dlopen(). For the next server, and for those of
// this process's children; null: nothing. Throws std::invalid_argument for a function that lies in
// no loaded program or library, or in one that is loaded twice.
void set_forkserver_preload(void (*preload)());

// Starts the server, if it does not run: now, and not with the first child.
void start_forkserver();
// Ends it and waits for its end. Nothing happens if there is none.
void stop_forkserver();
// Its process id; 0 if it does not run.
int forkserver_pid();

}  // namespace sidestep
