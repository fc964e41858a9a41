// How a process ended: ExitStatus.
//
// Threads: a value; as thread-safe as an int.
// Errors:  code() and signal() return 0 where they do not apply; ask exited() / signaled() first.
#pragma once

#include <string>

namespace sidestep::inline v0 {

// One of four: exited with a code, killed by a signal, lost, or running (the default).
//
// "Lost" means that the process is gone but someone else took its status: SIGCHLD is ignored by
// the application, or a foreign wait(-1) was faster. It is never reported as success.
class ExitStatus {
  public:
    ExitStatus() = default;

    static ExitStatus from_exit_code(int code) { return {Kind::exited, code, false}; }
    static ExitStatus from_signal(int signal, bool core_dumped = false) {
        return {Kind::signaled, signal, core_dumped};
    }
    static ExitStatus lost_status() { return {Kind::lost, 0, false}; }

    bool running() const { return kind_ == Kind::running; }
    bool exited() const { return kind_ == Kind::exited; }
    bool signaled() const { return kind_ == Kind::signaled; }
    bool lost() const { return kind_ == Kind::lost; }
    bool core_dumped() const { return core_dumped_; }
    bool success() const { return exited() && value_ == 0; }

    int code() const { return exited() ? value_ : 0; }
    int signal() const { return signaled() ? value_ : 0; }

    // Python's convention: 0..255 for an exit code, -N for signal N. A lost status is kLostCode.
    int returncode() const { return exited() ? value_ : signaled() ? -value_ : kLostCode; }
    static constexpr int kLostCode = 255;

    // "exited with code 3", "died of signal 11 (SIGSEGV, core dumped)", "ended; its exit status was
    // taken by someone else", "is running".
    std::string describe() const;

    friend bool operator==(const ExitStatus&, const ExitStatus&) = default;

  private:
    enum class Kind { running, exited, signaled, lost };
    ExitStatus(Kind kind, int value, bool core_dumped)
        : kind_(kind), value_(value), core_dumped_(core_dumped) {}

    Kind kind_ = Kind::running;
    int value_ = 0;
    bool core_dumped_ = false;
};

// "SIGSEGV" for 11, "signal 77" for a number that has no name.
std::string signal_name(int signal);

}  // namespace sidestep
