// Event: a flag that processes wait for.
//
// Ownership:  it lives in shared memory without a name, for as long as any handle does.
// Threads:    thread-safe and process-shared; a handle is a small value whose copies are one event.
// Fork:       a forked child has the handle too.
// Peer death: a dead waiter blocks nobody; if the one that calls set() dies in the middle, the flag
//             is either set, and the waiters learn it within 100 ms at most, or not.
// Errors:     std::logic_error for a handle that was moved from; std::system_error if there is no
//             shared memory to be had.
#pragma once

#include <chrono>
#include <string>

#include <sidestep/detail/object_ref.hpp>

namespace sidestep::inline v0 {

class Event {
  public:
    Event();
    explicit Event(detail::Blank) noexcept {}

    // Wakes all who wait, and lets pass who comes later, until clear().
    void set();
    void clear();
    bool is_set() const;

    // Who waits when set() is called is let pass, even if clear() follows at once.
    void wait() const { (void)wait_until_deadline({}); }
    // False: the time is up.
    bool wait_for(Timeout timeout) const {
        return wait_until_deadline(detail::deadline_after(timeout));
    }
    template <class Clock, class Duration>
    bool wait_until(const std::chrono::time_point<Clock, Duration>& moment) const {
        return wait_until_deadline(detail::deadline_at(moment));
    }

    friend bool operator==(const Event& a, const Event& b) { return a.ref_ == b.ref_; }

    void save(OutputArchive& archive) const;
    void load(InputArchive& archive);

  private:
    bool wait_until_deadline(const detail::Deadline& deadline) const;
    detail::ObjectRef ref_;
};

// "Event(set)" or "Event(unset)".
std::string to_string(const Event& event);

}  // namespace sidestep
