// How to wait between two looks: not at all for a while after something has happened, then asleep,
// twice as long each time. A thread that waits for MPI in MPI takes a whole CPU.
//
// Who looks again at once yields its CPU meanwhile, since what it waits for may need that. Where
// others want to run, a yield costs a time slice of theirs, milliseconds, and a sleep does not: who
// wakes up goes first. So a thread that comes back late from a yield does not yield for some time,
// and sleeps sooner.
//
// Threads: one.
#pragma once

#include <chrono>

#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

class BackOff {
  public:
    using Time = sys::Clock::time_point;
    // What is waited for: nothing in particular; an answer; or that bytes go on, which they do only
    // while somebody looks.
    enum class For { anything, answer, bytes };
    // How long it looks at once: several times as long as an empty task takes on another host; for
    // an answer, as one with a megabyte; and where others want to run.
    static constexpr std::chrono::microseconds kLooks{200}, kLooksForMore{1000}, kLooksInCrowd{100};
    // A yield that took so long went to others. None is tried then for so long, at first and at
    // most: twice as long each time, unless so many waits before were in time, since a late one
    // costs as much as those save.
    static constexpr std::chrono::microseconds kLate{100};
    static constexpr std::chrono::milliseconds kFirstCrowd{10}, kLastCrowd{1000};
    static constexpr unsigned kManyInTime = 100;
    // Bytes that have not gone on for so long are stuck: their host may be cut off.
    static constexpr std::chrono::milliseconds kStuck{20};
    // How long it sleeps: at first, and at most.
    static constexpr unsigned kFirstUs = 20, kLastBusyUs = 150, kLastIdleUs = 1000;

    // The sleeps of this thread, and of those that it starts from here on, end when they are to. By
    // default Linux lets each be 50 us longer (prctl(2), PR_SET_TIMERSLACK), and bytes that move
    // wait for many of them.
    static void sleep_in_time() noexcept;

    // Something has happened.
    void reset();
    // How long to sleep, in microseconds; 0: pause(), and look again.
    unsigned next(For what, Time now = sys::Clock::now());
    void pause();
    // Does what next() says.
    void wait(For what);

    // Parts of pause(): whether to yield, and how long that took.
    bool yields() const { return now_ >= crowded_until_; }
    void came_back(Time now);

  private:
    Time began_{};  // to wait; the epoch: something has happened since
    Time now_{};    // of next()
    Time crowded_until_{};
    std::chrono::milliseconds crowd_{0};  // how long none was tried, the last time
    unsigned waits_in_time_ = 0;          // since then, that have yielded
    bool in_time_ = false;                // this one has yielded, and was not late
    unsigned us_ = kFirstUs;
};

}  // namespace sidestep::detail
