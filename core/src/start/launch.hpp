// Starting children that run this program's own code: one interface over the start methods.
//
// Peer death: a child with a lifeline is killed when its parent ends (see boot.hpp).
// Threads:    a launcher belongs to one thread at a time.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/start_method.hpp>

#include "start/boot.hpp"
#include "sys/fd.hpp"
#include "sys/parent_fd.hpp"
#include "sys/process_handle.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {

struct Launched : sys::ProcessHandle<ParentFd> {
    ParentFd control;   // our end of the control socket
    ParentFd lifeline;  // the child is killed when this closes
};

struct LaunchOptions {
    bool own_group = true;     // it leads a process group; else it is in that of the caller
    bool dies_with_us = true;  // it has a lifeline
    // How long a fork server may take to fork one, which takes microseconds; a stopped one, or one
    // that never comes to init(), must not stop us.
    std::chrono::nanoseconds answer_within = std::chrono::seconds(30);
    // Added to the environment of a program that is started afresh. (A forked child sets its own.)
    std::vector<std::pair<std::string, std::string>> environment = {};
};

class Launcher {
  public:
    virtual ~Launcher() = default;
    // Starts a child of this process that goes on at `entry`. Throws std::system_error if it cannot
    // be started.
    virtual Launched launch(BootMain entry, const LaunchOptions& options) = 0;
    Launched launch(BootMain entry) { return launch(entry, LaunchOptions{}); }
};

// A child that was started a moment ago, and what belongs to it. An empty lifeline is none; an
// empty pidfd is opened here.
struct NewChild {
    sys::ProcessHandle<Fd> process;
    ParentFd control;
    ParentEnds lifeline;
};
// Sends the child its first message (see boot.hpp) and takes it over. If that fails, the child is
// ended and reaped.
Launched take_over(NewChild child, BootMain entry);
// Ends and reaps a child that cannot be used.
void discard(Launched child) noexcept;

// Throws std::logic_error unless init() was called.
void require_init(const char* purpose);
// Throws std::logic_error if spawn cannot bring this program's code to a child: see init.hpp.
void require_spawn(const char* purpose);
// Throws std::logic_error if there are other threads than this one and `own_threads`.
void require_single_thread(const char* purpose, std::size_t own_threads);

// Starts this program afresh, or the one that set_executable() named.
std::unique_ptr<Launcher> make_spawner();
// Forks this process as it is.
std::unique_ptr<Launcher> make_forker();
// What starts a fork server: the first, or the second where spawn will not do; then it throws
// std::logic_error if there are other threads than this one and `own_threads`.
std::unique_ptr<Launcher> make_server_starter(const char* purpose, std::size_t own_threads);

// The launcher of a pool. With the fork methods it is a template, forked now.
// `purpose` begins the messages of errors ("a pool's worker").
// Throws std::logic_error if init() was not called (spawn, forkserver), if spawn will not do, or if
// there are other threads (fork; `own_threads` of them are known to hold nothing that a task
// needs). `server` is how a fork server is started, and started again if it died; a template that
// died makes every launch() throw.
std::unique_ptr<Launcher> make_launcher(StartMethod method, const char* purpose,
                                        std::size_t own_threads, const LaunchOptions& server = {});

}  // namespace sidestep
