// What only one thread of a pool does: the supervisor, or the one that starts it, before it does.
//
// Clang++ checks who has the role, as it checks who holds a mutex (thread_safety.hpp). Nothing is
// locked: the role is had by the function that begins it, and by those that it calls.
#pragma once

#include "sync/thread_safety.hpp"

namespace sidestep::inline v0::detail {

class SIDESTEP_CAPABILITY("role") SupervisorRole {};
inline constexpr SupervisorRole supervising;

// Of a function, behind its parameters: the supervisor alone calls it. Of a member: likewise.
#define SUPERVISOR_ONLY SIDESTEP_REQUIRES(supervising)
#define SUPERVISOR_OWNED SIDESTEP_GUARDED_BY(supervising)

// While it lives, this thread is the supervisor.
class SIDESTEP_SCOPED_CAPABILITY Supervising {
  public:
    // Unchecked, both: that there is one at a time is the reader's to see.
    Supervising() SIDESTEP_ACQUIRE(supervising) SIDESTEP_UNCHECKED {}
    ~Supervising() SIDESTEP_RELEASE() SIDESTEP_UNCHECKED {}
    Supervising(const Supervising&) = delete;
    Supervising& operator=(const Supervising&) = delete;
};

}  // namespace sidestep::detail
