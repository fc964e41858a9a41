// Which process a pool belongs to: what it has of threads and mutexes works there only.
#pragma once

#include <unistd.h>

#include <stdexcept>
#include <string>

#include "sys/fork_marker.hpp"

namespace sidestep::inline v0::detail {

// To be asked before the pool's mutex is taken: in a forked copy a thread that exists no more may
// hold that for ever. Threads: thread-safe.
class PoolOwner {
  public:
    // `belongs`: how its error begins.
    explicit PoolOwner(const char* belongs = "this pool belongs to") : belongs_(belongs) {}
    bool is_here() const { return marker_.same_process(); }
    // Throws std::logic_error.
    void require_here() const {
        if (!is_here())
            throw std::logic_error(std::string(belongs_) +
                                   " the process that made it, and this is a forked copy: make a "
                                   "pool of its own here");
    }
    ForkGeneration generation() const { return marker_.generation(); }
    int pid() const { return pid_; }

  private:
    const char* const belongs_;
    const ForkMarker marker_;
    const int pid_ = ::getpid();
};

}  // namespace sidestep::detail
