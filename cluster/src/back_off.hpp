// How to wait between two looks: not at all for a while after something has happened, then asleep,
// twice as long each time. A thread that waits for MPI in MPI takes a whole CPU.
//
// Who looks again at once yields its CPU meanwhile, since what it waits for may need that. Where
// others want to run, a yield costs a time slice of theirs, milliseconds (so since Linux 6.18), and
// a sleep does not: who wakes up goes first. So a thread that comes back late from a yield does not
// yield for some time, and sleeps sooner.
//
// Threads: one.
#pragma once

#include <chrono>

#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

class BackOff {
  public:
    using Time = sys::Clock::time_point;
    // How long it looks at once: several times as long as an empty task takes on another host; and
    // where others want to run.
    static constexpr std::chrono::microseconds kLooks{200}, kLooksInCrowd{100};
    // A yield that took so long went to others; for how long none is tried then, at first and at
    // most.
    static constexpr std::chrono::microseconds kLate{100};
    static constexpr std::chrono::milliseconds kFirstCrowd{10}, kLastCrowd{1000};
    static constexpr unsigned kFirstUs = 20, kLastBusyUs = 100, kLastIdleUs = 1000;

    // Has this thread's sleeps end when they are to: else Linux adds 50 us to each.
    static void sleep_precisely() noexcept;

    // Something has happened.
    void reset();
    // How long to sleep, in microseconds; 0: pause(), and look again. busy: an answer is to come.
    unsigned next(bool busy, Time now = sys::Clock::now());
    void pause();
    // Does what next() says.
    void wait(bool busy);

    // Parts of pause(): whether to yield, and how long that took.
    bool yields() const { return now_ >= crowded_until_; }
    void came_back(Time now);

  private:
    Time began_{};  // to wait; the epoch: something has happened since
    Time now_{};    // of next()
    Time crowded_until_{};
    std::chrono::milliseconds crowd_ = kFirstCrowd;  // how long none is tried, the next time
    bool in_time_ = false;                           // it has yielded, and never was late
    unsigned us_ = kFirstUs;
};

}  // namespace sidestep::detail
