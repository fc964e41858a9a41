// Condition: waiting, with a lock, for what another process does.
//
//     sidestep::Condition changed;                 // with a lock of its own, an RLock
//     {   std::scoped_lock lock(changed);          //     std::scoped_lock lock(changed);
//         changed.wait([&] { return ready(); });   //     make_ready();
//     }                                            //     changed.notify_all();
//
// A notification wakes exactly as many as it says, first come first served, and is not stored: with
// nobody waiting it does nothing. Who was notified and finds its predicate false waits behind all
// others again.
//
// Ownership:  it lives in shared memory without a name, for as long as any handle does.
// Threads:    thread-safe and process-shared; a handle is a small value whose copies are one
//             condition. wait and notify ask that the caller holds the lock.
// Fork:       a forked child has the handle too, but not the lock that its parent holds.
// Peer death: notify passes over the dead, and never waits for anybody. If one is killed that has
//             just been notified, the notification is lost with it: wait(predicate) looks at the
//             predicate at least every 100 ms, and finds out all the same.
// Errors:     std::logic_error if the lock is not held, or the handle was moved from;
//             std::length_error for too many waiters; DamagedError out of a wait whose place in
//             the shared memory was written over (the lock is held then).
// Limits:     256 threads wait on one condition at a time.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <variant>

#include <sidestep/lock.hpp>

namespace sidestep::inline v0 {

class Condition {
  public:
    Condition() : Condition(RLock()) {}
    explicit Condition(RLock lock);
    explicit Condition(Lock lock);
    explicit Condition(detail::Blank blank) noexcept : lock_(RLock(blank)) {}

    // Its lock, so that std::scoped_lock and std::unique_lock take the condition itself.
    void lock();
    [[nodiscard]] bool try_lock();
    void unlock();
    // The holder before died holding the lock.
    bool owner_died() const;

    // Gives up the lock (however deep), waits to be notified, takes the lock again.
    void wait() { (void)wait_step({}, kNotified); }
    // False: the time is up.
    bool wait_for(Timeout timeout) { return wait_step(detail::deadline_after(timeout), kNotified); }
    template <class Clock, class Duration>
    bool wait_until(const std::chrono::time_point<Clock, Duration>& moment) {
        return wait_step(detail::deadline_at(moment), kNotified);
    }

    // Waits until predicate() is true. With a timeout, returns the predicate's last value.
    template <class Predicate>
    requires std::is_invocable_v<Predicate&>
    void wait(Predicate predicate) { (void)wait_predicate({}, predicate); }
    template <class Predicate>
    bool wait_for(Timeout timeout, Predicate predicate) {
        return wait_predicate(detail::deadline_after(timeout), predicate);
    }
    template <class Clock, class Duration, class Predicate>
    bool wait_until(const std::chrono::time_point<Clock, Duration>& moment, Predicate predicate) {
        return wait_predicate(detail::deadline_at(moment), predicate);
    }

    void notify_one() { notify(1); }
    void notify_all() { notify(kEverybody); }
    void notify(unsigned count);
    // How many living threads wait now, and have not been notified. The caller holds the lock.
    unsigned waiting() const;

    friend bool operator==(const Condition& a, const Condition& b) { return a.ref_ == b.ref_; }

    void save(OutputArchive& archive) const;
    void load(InputArchive& archive);

  private:
    static constexpr unsigned kEverybody = ~0u;
    struct Waiters;
    static constexpr unsigned kNotified = ~0u;
    // Returns when notified; in round n of a wait for a predicate, after 2 ms * 2^n (100 ms at
    // most) too. `ticket` keeps its place in the queue from round to round; 0: a new one.
    bool wait_step(const detail::Deadline& deadline, unsigned round,
                   std::uint64_t* ticket = nullptr);
    template <class Predicate>
    bool wait_predicate(const detail::Deadline& deadline, Predicate& predicate) {
        std::uint64_t ticket = 0;
        for (unsigned round = 0;; ++round) {
            if (predicate()) return true;
            if (deadline && std::chrono::steady_clock::now() >= *deadline) return false;
            if (wait_step(deadline, std::min(round, 10u), &ticket)) ticket = 0;
        }
    }
    Waiters& waiters() const;
    bool held() const;

    std::variant<RLock, Lock> lock_;
    detail::ObjectRef ref_;
};

}  // namespace sidestep
