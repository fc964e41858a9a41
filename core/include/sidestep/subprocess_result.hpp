// What comes out of a child: CompletedProcess, ResourceUsage, and the errors.
//
//   std::runtime_error
//     SubprocessError
//       CalledProcessError   the child failed, and the caller asked to be told
//       TimeoutExpired       the child is still there (wait, communicate) or was killed (run)
//       DecodeError          text mode met bytes that are no text
//   std::system_error
//     StartError             there is no child: the failing step, errno and path
//
// Threads: values.
#pragma once

#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include <sidestep/exit_status.hpp>
#include <sidestep/subprocess_options.hpp>

namespace sidestep::inline v0::subprocess {

// What a finished child and its reaped descendants used (getrusage(2)).
struct ResourceUsage {
    std::chrono::microseconds user_time{};
    std::chrono::microseconds system_time{};
    std::uint64_t max_resident_bytes = 0;
    std::uint64_t minor_faults = 0;
    std::uint64_t major_faults = 0;
    std::uint64_t voluntary_switches = 0;
    std::uint64_t involuntary_switches = 0;
};

// What communicate() returns; a stream that is no pipe is empty.
struct Output {
    std::string std_out = {};
    std::string std_err = {};
};

struct CompletedProcess {
    Args args;
    int returncode = 0;        // 0..255, -N for signal N, 255 if the status was lost
    std::string std_out = {};  // empty if it was not captured
    std::string std_err = {};
    ExitStatus status = {};
    ResourceUsage usage = {};

    // Throws CalledProcessError unless returncode is 0. In a result that was made by hand, the
    // status may be missing (running).
    void check_returncode() const;
};

class SubprocessError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

class CalledProcessError : public SubprocessError {
  public:
    CalledProcessError(ExitStatus status, Args cmd, Output output = {});
    // For a code in Python's convention: 0..255, -N for signal N.
    CalledProcessError(int returncode, Args cmd, Output output = {});

    int returncode() const { return returncode_; }
    const ExitStatus& status() const { return status_; }
    const Args& cmd() const { return cmd_; }
    const std::string& output() const { return output_.std_out; }
    const std::string& std_out() const { return output_.std_out; }
    const std::string& std_err() const { return output_.std_err; }

  private:
    int returncode_;
    ExitStatus status_;
    Args cmd_;
    Output output_;
};

// From wait() without output; from communicate() and run() with what was written so far, as bytes,
// in text mode too (it may end within a character).
class TimeoutExpired : public SubprocessError {
  public:
    TimeoutExpired(Args cmd, Timeout timeout, Output output = {});

    const Args& cmd() const { return cmd_; }
    std::chrono::nanoseconds timeout() const { return timeout_; }
    const std::string& output() const { return output_.std_out; }
    const std::string& std_out() const { return output_.std_out; }
    const std::string& std_err() const { return output_.std_err; }

  private:
    Args cmd_;
    std::chrono::nanoseconds timeout_;
    Output output_;
};

class DecodeError : public SubprocessError {
  public:
    explicit DecodeError(const std::string& what, Output output = {})
        : SubprocessError(what), output_(std::move(output)) {}

    // From communicate() and run(): all that was collected, as bytes. Empty for input that cannot
    // be encoded, and from a pipe's own calls, where what was not decoded can be read no more.
    const std::string& std_out() const { return output_.std_out; }
    const std::string& std_err() const { return output_.std_err; }

  private:
    Output output_;
};

// The steps of a start, in their order.
enum class StartStep {
    pipe,      // in the parent: a pipe or /dev/null
    spawn,     // clone(2): pid limit, fd limit
    redirect,  // dup2 of 0, 1, 2 and pass_fds
    chdir,     // path(): the folder
    signals,
    setsid,
    setpgid,
    setrlimit,
    affinity,
    nice,
    setgroups,
    setgid,
    setuid,
    die_with_parent,
    preexec_fn,
    close_fds,
    exec,  // path(): the executable as it was asked for
};
const char* to_string(StartStep step);

class StartError : public std::system_error {
  public:
    StartError(StartStep step, int error, std::string path, const std::string& what);

    StartStep step() const { return step_; }
    // The folder (chdir) or the executable (exec); empty for the other steps.
    const std::string& path() const { return path_; }

  private:
    StartStep step_;
    std::string path_;
};

}  // namespace sidestep::subprocess
