// Semaphore and BoundedSemaphore: permits that processes take and give.
//
// The permits that a semaphore is made with belong to whoever takes them: when a process dies,
// those it holds come back, so that a permit neither leaks nor doubles, whenever the kill strikes.
// release() gives back a permit of the caller's own process; if it holds none, one that another
// process holds (it was handed over); if nobody holds any, a Semaphore gets one more than it was
// made with, for the next acquire() to use up, and a BoundedSemaphore throws. So the value is
// always what it would be with Python's.
//
// Where permits stand for things that outlive their taker (items in a buffer, say), nothing must
// come back: .returned_on_death = false makes it a plain counter.
//
// Ownership:  it lives in shared memory without a name, for as long as any handle does.
// Threads:    thread-safe and process-shared; a handle is a small value whose copies are one
//             semaphore. Permits belong to processes, not to threads.
// Fork:       a forked child holds none of its parent's permits.
// Peer death: see above; noticed by who waits (within as long as it has waited already, 2 to
//             100 ms), by try_acquire() and by value().
// Errors:     std::invalid_argument for a bad number; std::logic_error for a release too many (of a
//             BoundedSemaphore; of a Semaphore beyond 2^31 - 1) and for a handle that was moved
//             from; DamagedError if a process that shares it wrote over its counter. (A permit that
//             was written over comes back, as a dead process's does.)
// Limits:     65536 permits that return on death; 2^31 - 1 that do not.
#pragma once

#include <chrono>
#include <cstdint>

#include <sidestep/detail/object_ref.hpp>

namespace sidestep::inline v0 {

struct SemaphoreOptions {
    bool returned_on_death = true;  // a dead process's permits come back
};

namespace detail {

class SemaphoreBase {
  public:
    // Waits for a permit.
    void acquire() { (void)acquire_until({}); }
    // False: there is none now.
    [[nodiscard]] bool try_acquire();
    [[nodiscard]] bool try_acquire_for(Timeout timeout) {
        return acquire_until(deadline_after(timeout));
    }
    template <class Clock, class Duration>
    [[nodiscard]] bool try_acquire_until(const std::chrono::time_point<Clock, Duration>& moment) {
        return acquire_until(deadline_at(moment));
    }
    // Gives `count` permits, one after the other. If one is too many, those before it stay given.
    void release(unsigned count = 1);
    // How many permits there are to take now.
    unsigned value() const;

    void save(OutputArchive& archive) const;
    void load(InputArchive& archive);

  protected:
    SemaphoreBase(unsigned permits, bool bounded, SemaphoreOptions options);
    explicit SemaphoreBase(Blank) noexcept {}
    bool same(const SemaphoreBase& other) const { return ref_ == other.ref_; }

  private:
    bool acquire_until(const Deadline& deadline);
    ObjectRef ref_;
    std::uint32_t owned_ = 0, limit_ = 0;  // as the semaphore was made
};

}  // namespace detail

class Semaphore : public detail::SemaphoreBase {
  public:
    explicit Semaphore(unsigned permits = 1, SemaphoreOptions options = {})
        : SemaphoreBase(permits, false, options) {}
    explicit Semaphore(detail::Blank blank) noexcept : SemaphoreBase(blank) {}
    friend bool operator==(const Semaphore& a, const Semaphore& b) { return a.same(b); }
};

// Never holds more permits than it was made with.
class BoundedSemaphore : public detail::SemaphoreBase {
  public:
    explicit BoundedSemaphore(unsigned permits = 1, SemaphoreOptions options = {})
        : SemaphoreBase(permits, true, options) {}
    explicit BoundedSemaphore(detail::Blank blank) noexcept : SemaphoreBase(blank) {}
    friend bool operator==(const BoundedSemaphore& a, const BoundedSemaphore& b) {
        return a.same(b);
    }
};

}  // namespace sidestep
