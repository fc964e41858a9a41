// The child of a Popen, and the parent's ends of its pipes: the system's part of a subprocess.
//
// What is asked for, checked and told is portable, and is above this. Another system would have
// files of its own beside this one, pipe_io, pump and the spawn_ files, with the same faces.
//
// Threads: single-owner; what is const may be called in several threads at once, but for reap(): it
//          ends the use of the child's number, so its caller keeps others from signalling
//          meanwhile.
// Errors:  std::system_error where the system refuses.
#pragma once

#include <optional>

#include <sidestep/exit_status.hpp>
#include <sidestep/subprocess_options.hpp>
#include <sidestep/subprocess_result.hpp>

#include "spawn/spawn.hpp"
#include "sys/fd.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::subprocess {

class PopenChild {
  public:
    PopenChild() = default;

    int pid() const noexcept { return child_.pid; }
    // Readable at its end.
    int fd() const noexcept { return child_.fd(); }
    // Whether it began as the leader of a process group.
    bool leads_group() const noexcept { return leads_group_; }

    // Takes its status if it has ended; running() if not. `usage`: what it used.
    ExitStatus reap(ResourceUsage* usage = nullptr) const;
    // False at the deadline. It may be unreaped still.
    bool wait_for_end(const sys::Deadline& deadline) const { return child_.wait_for_end(deadline); }
    // Waits until it is alone in its group and session. False at the deadline, or at once if that
    // cannot be told. It has to be unreaped.
    bool wait_for_group(const sys::Deadline& deadline) const;

    // Nothing happens if it is gone.
    void signal(int number) const { (void)child_.signal(number); }
    void signal_group(int number) const { child_.signal_group(number); }
    // With all its descendants; see kill_tree.hpp.
    void kill_tree() const;
    // With die_with_parent: it dies now.
    void close_lifeline() noexcept { child_.lifeline.reset(); }

  private:
    friend class PopenStart;
    spawn::Child child_;
    bool leads_group_ = false;
    bool leads_session_ = false;
};

// A start in two steps, so that all that may fail comes before there is a child, for which nobody
// would wait.
class PopenStart {
  public:
    // Opens the pipes. `own_group`: the child is to lead one, if nothing else is asked for and it
    // does not read from the terminal (which a group in the background cannot). Throws
    // std::invalid_argument, StartError. Borrows both.
    PopenStart(const Args& args, const Options& options, bool own_group);
    PopenStart(const PopenStart&) = delete;
    PopenStart& operator=(const PopenStart&) = delete;

    // The parent's ends of the pipes, to be taken; empty where no PIPE was asked for.
    Fd in, out, err;

    // Returns when the program runs. Throws StartError, and then there is no child.
    PopenChild start();

  private:
    int open_stream(const Redirect& redirect, Fd sys::Pipe::*child_end, sys::Pipe& pipe);
    void open_streams();

    std::optional<Options> grouped_;
    const Options& options_;
    spawn::Description description_;
    Fd null_, child_in_, child_out_, child_err_;  // closed when the start is over
    spawn::Stdio stdio_;
};

}  // namespace sidestep::subprocess
