// When the supervisor has something to do that nobody calls it for.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>

#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

// How often it is looked whether workers keep objects that are gone.
constexpr std::chrono::seconds kLetGo{1};

// As late as can be said at most: the longest durations mean "never".
inline sys::Clock::time_point saturating_add(sys::Clock::time_point now,
                                             std::chrono::nanoseconds duration) {
    auto longest = sys::Clock::time_point::max() - now;
    return duration >= longest ? sys::Clock::time_point::max() : now + duration;
}

// One due time for each purpose; the supervisor sleeps until the first of them. Nothing here takes
// memory, or looks at the clock.
//
// Threads: the caller serialises (a pool, by its mutex).
class Timers {
  public:
    enum class Purpose : unsigned char {
        rings,      // tasks that are stuck in a ring, or wait behind others, are looked for
        policies,   // timeouts, memory limits, the ladder to SIGKILL, pauses before an attempt
        output,     // what tasks have printed is trimmed
        handles,    // what workers keep for tasks to come is let go
        idle,       // workers leave, since there was nothing to do
        terminate,  // workers that terminate() left alive are killed
        count_
    };
    using Time = sys::Clock::time_point;

    void set(Purpose purpose, Time due) { at(purpose) = due; }
    // Not later than that.
    void set_earlier(Purpose purpose, Time due) {
        sys::Deadline& present = at(purpose);
        present = present ? std::min(*present, due) : due;
    }
    void clear(Purpose purpose) { at(purpose).reset(); }
    bool is_set(Purpose purpose) const { return at(purpose).has_value(); }
    bool is_due(Purpose purpose, Time now) const { return at(purpose) && *at(purpose) <= now; }
    // Is it due? Then it is set no more.
    bool take_due(Purpose purpose, Time now) {
        bool due = is_due(purpose, now);
        if (due) clear(purpose);
        return due;
    }
    sys::Deadline first() const {
        sys::Deadline first;
        for (const sys::Deadline& due : due_)
            if (due && (!first || *due < *first)) first = due;
        return first;
    }

  private:
    sys::Deadline& at(Purpose purpose) { return due_[static_cast<std::size_t>(purpose)]; }
    const sys::Deadline& at(Purpose purpose) const {
        return due_[static_cast<std::size_t>(purpose)];
    }

    std::array<sys::Deadline, static_cast<std::size_t>(Purpose::count_)> due_;
};

}  // namespace sidestep::detail
