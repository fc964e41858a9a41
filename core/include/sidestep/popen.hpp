// Popen: a child process, started by the constructor. Python's subprocess.Popen.
//
//   Popen sort({"sort", "-n"}, {.std_in = PIPE, .std_out = PIPE});
//   Output out = sort.communicate("10\n9\n");
//
// The constructor returns when the program runs (exec has succeeded), or throws and leaves
// nothing behind. Any number of threads may start children at once: descriptors do not leak from
// one child into another.
//
// Ownership: a Popen owns the child: its pidfd, its pipes and the duty to reap it. Move-only; the
//            destructor closes the pipes, then does what Options::on_destroy says (default: waits).
// Threads:   start, poll, wait, wait_for, the signals and the getters: thread-safe on one object,
//            and all of them return the same status. communicate, stop, detach and the pipes:
//            single-owner.
// Fork:      a forked child has copies of the descriptors, but is not the parent: there, every
//            status is lost.
// Peer death: waiting is a poll on a pidfd: no polling loop, no SIGCHLD handler, no reuse of pids.
//            A signal to a child that is gone does nothing.
// Errors:    std::invalid_argument (options), StartError (the failing step, errno, path),
//            TimeoutExpired, std::system_error.
// Limits:    as all of this library, Linux 5.9.
#pragma once

#include <initializer_list>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>

#include <sidestep/exit_status.hpp>
#include <sidestep/subprocess_options.hpp>
#include <sidestep/subprocess_pipes.hpp>
#include <sidestep/subprocess_result.hpp>
#include <sidestep/timeout.hpp>

namespace sidestep::inline v0::subprocess {

// The library's own.
struct PopenAccess;
struct PopenState;

class Popen {
  public:
    // Starts the child. The fields of Options for run() must not be set.
    explicit Popen(const Args& args, const Options& options = {});
    // The same; with this, Popen({"cat"}) does not mean the copy of a Popen.
    explicit Popen(std::initializer_list<Argument> words, const Options& options = {})
        : Popen(Args(words), options) {}
    Popen(Popen&& other) noexcept;
    Popen& operator=(Popen&& other) noexcept;
    ~Popen();

    const Args& args() const;
    int pid() const;
    // Readable when the child has ended; valid as long as this object.
    int pidfd() const;

    // The parent's ends; "not a pipe" (false) unless the stream was redirected to PIPE. In text
    // mode they transcode.
    PipeWriter& std_in();
    PipeReader& std_out();
    PipeReader& std_err();

    // The return code if the child has ended: 0..255, -N for signal N, 255 if lost. Never blocks.
    std::optional<int> poll();
    // Waits for the end. A full pipe that nobody reads blocks the child, and so this: communicate.
    int wait();
    // Throws TimeoutExpired, and leaves the child running. Zero or less: expired now.
    int wait(Timeout timeout);
    // Waits for the end; false after the timeout.
    [[nodiscard]] bool wait_for(Timeout timeout);

    // Writes `input` to std_in and closes it, reads std_out and std_err to their end, waits.
    // A child that does not read its input is no error. After TimeoutExpired the child runs on;
    // call again without input: no output is lost, and the rest of the input is still sent. Only
    // communicate() sends that rest: what std_in().write() writes in between overtakes it, and
    // std_in().close() drops it.
    // Throws std::logic_error for input without a pipe, or new input after a timeout; DecodeError,
    // before anything is sent, for input that cannot be encoded, or what std_in().stream() has
    // lost.
    Output communicate(std::optional<std::string> input = {}, std::optional<Timeout> timeout = {});

    // Signals go to the child itself; nothing happens if it is gone.
    void send_signal(int signal);
    void terminate();  // SIGTERM
    void kill();       // SIGKILL
    // Kills the child and its descendants: its process group if it leads one, and every process
    // whose chain of parents leads to it; each is stopped first, so that none escapes by forking.
    // Only until the end of the child has been seen by poll() or wait(): its pid is free then.
    // Throws std::system_error if there are not enough descriptors or memory to look for the
    // descendants: what was found, the child and its group are killed, others may be left. EPERM,
    // as from kill(): the child became someone else (setuid), and runs on.
    void kill_tree();
    // Ends the child step by step; returns the status, or running() if the ladder ended first. With
    // Options::kill_tree, and if the child leads a process group, the ladder goes on until that
    // has ended as a whole: a descendant that ignores SIGTERM gets the SIGKILL.
    ExitStatus stop(const StopLadder& ladder = default_stop_ladder());
    // Gives the child up: closes the pipes; the destructor will leave it alone.
    void detach();

    // What the last poll(), wait() or communicate() has seen: no value before the end.
    std::optional<int> returncode() const;
    ExitStatus exit_status() const;
    // Zero before the end, and if the status was lost.
    ResourceUsage resource_usage() const;

    // "Popen(ls -1 /): pid 4211 exited with code 0"; a long command is cut.
    std::string describe() const;

  private:
    friend struct PopenAccess;
    std::unique_ptr<PopenState> state_;
};

std::ostream& operator<<(std::ostream& out, const Popen& child);

}  // namespace sidestep::subprocess
