// Descriptors that a process keeps on its children: control sockets, lifelines, pidfds.
//
// A forked child must not hold copies of them: its brothers would outlive their parent, because the
// lifeline never closes, and would never see the end of their control sockets. So every fork(2),
// the application's own too, closes them in the child (pthread_atfork), by way of a list that each
// process keeps.
//
// Ownership: move-only. In any process but the one that made it, it closes nothing.
// Threads:   the list is thread-safe.
// Fork:      see above. _Fork(3) and a raw clone(2) leave the child its copies until it calls exec.
#pragma once

#include <utility>

#include "sys/fd.hpp"
#include "sys/fork_marker.hpp"

namespace sidestep::inline v0 {

struct ParentEnds;

class ParentFd {
  public:
    ParentFd() = default;
    ParentFd(Fd fd);  // NOLINT: takes over an Fd wherever one is expected
    ParentFd(ParentFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)), owner_(other.owner_) {}
    ParentFd& operator=(ParentFd&& other) noexcept;
    ~ParentFd() { reset(); }

    int get() const noexcept { return fd_; }
    explicit operator bool() const noexcept { return fd_ >= 0; }
    void reset() noexcept;

  private:
    friend ParentEnds make_control_pair();
    friend ParentEnds make_lifeline();
    template <class Make>
    static ParentEnds make_ends(Make make);

    int fd_ = -1;
    ForkMarker owner_;
};

// Our end and the child's of something that is made for one child: no process that another thread
// forks has ours, whenever it does.
struct ParentEnds {
    ParentFd ours;
    Fd theirs;
};
ParentEnds make_control_pair();
ParentEnds make_lifeline();  // ours is where it is written

// The same of a descriptor that something else owns, and closes when this is gone.
class ParentFdMark {
  public:
    explicit ParentFdMark(int fd);
    ~ParentFdMark();
    ParentFdMark(const ParentFdMark&) = delete;
    ParentFdMark& operator=(const ParentFdMark&) = delete;

  private:
    const int fd_;
    const ForkMarker owner_;
};

}  // namespace sidestep
