// Descriptors that a process keeps on its children: control sockets, lifelines, pidfds.
//
// A forked child must not hold copies of them: its brothers would outlive their parent, because the
// lifeline never closes, and would never see the end of their control sockets. So fork_child() (see
// fork_child.hpp) closes them in the child, by way of a list that each process keeps.
//
// Ownership: move-only. In any process but the one that made it, it closes nothing.
// Threads:   the list is thread-safe.
// Fork:      a child of a foreign fork(2) keeps its copies.
#pragma once

#include <mutex>
#include <utility>

#include "fd.hpp"

namespace sidestep {

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

    // Keeps the list still while the process is forked; the child calls close_all().
    static std::unique_lock<std::mutex> freeze();
    // In a child that was forked under freeze().
    static void close_all() noexcept;

  private:
    int fd_ = -1;
    int owner_ = 0;
};

}  // namespace sidestep
