// What the tasks of a dead worker had left running, where it becomes this process's: in process 1
// of a pid namespace (a container), and in a subreaper (PR_SET_CHILD_SUBREAPER). It is killed with
// the worker's process group; here its status is taken, so that no zombie is left.
//
// Threads: the supervisor's. Limits: what has left the group (setsid) is not known here.
#pragma once

#include <vector>

#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

class Orphans {
  public:
    // The members of a group whose leader is reaped, and who were killed. Most often there are
    // none.
    void add(int group) noexcept;
    // Takes the statuses of those that have ended.
    void reap() noexcept;
    // The same for all, until the deadline: those that were killed end soon.
    void reap_until(sys::Clock::time_point deadline) noexcept;
    bool empty() const { return groups_.empty(); }

  private:
    std::vector<int> groups_;
};

}  // namespace sidestep::detail
