// Locks, semaphores, conditions, events and barriers that live in a server. A Manager makes them.
//
// They have the calls of those in shared memory (lock.hpp, condition.hpp...), which are some
// hundred times faster; these have the server's view of who lives: a client is gone when its
// connection ends.
//
// Ownership:  a lock is held by a process, an RLock (and a condition's lock) by one thread of it.
//             Who does not hold it cannot unlock() it: std::logic_error.
// Peer death: a lock that a dead client held is free, and its next holder is told: owner_died(),
//             until unlock(). A dead client waits no more; one that waited at a barrier breaks it.
//             Permits of a semaphore, which belong to nobody, stay taken. A lock ends with its
//             server, and nobody else has it then: unlock() of one whose server has ended does
//             nothing, so that a std::scoped_lock passes, and the next call says ActorLost. But a
//             server that lives on, or may (it was silent, the network is cut), has given the lock
//             to others: unlock() throws Disconnected, since what was done under the lock may have
//             been done beside them. A std::scoped_lock ends the program then: who may be cut off
//             calls lock() and unlock().
// Threads, Fork, Errors: as Proxy (proxy.hpp), and BrokenBarrierError (barrier.hpp).
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <utility>

#include <sidestep/actor_lost.hpp>
#include <sidestep/detail/held_object.hpp>
#include <sidestep/detail/sync_objects.hpp>
#include <sidestep/proxy.hpp>
#include <sidestep/timeout.hpp>

namespace sidestep::inline v0 {

namespace detail {

// What std::unique_lock and std::scoped_lock take.
template <class Object>
class LockableProxy : public Proxy<Object> {
  public:
    using Proxy<Object>::Proxy;

    void lock() const { (void)try_lock_for(Timeout::forever()); }
    // False: somebody else holds it (an RLock's holder takes it once more).
    [[nodiscard]] bool try_lock() const { return try_lock_for(Timeout()); }
    [[nodiscard]] bool try_lock_for(Timeout timeout) const {
        return this->template call<&Object::lock>(timeout.time());
    }
    // If the server has ended the connection, it is asked whether it lives: two seconds at most.
    void unlock() const {
        try {
            this->template call<&Object::unlock>();
        } catch (const ActorLost&) {
            if (!server_has_ended(this->held())) throw;
        }
    }
    // For the holder: the holder before died holding it. Until unlock(). False for all others.
    bool owner_died() const { return this->template call<&Object::owner_died>(); }
};

}  // namespace detail

class LockProxy : public detail::LockableProxy<detail::LockObject> {
  public:
    using LockableProxy::LockableProxy;
    // The pid of the process that holds it; 0: the server cannot see that one (it came by TCP, or
    // is in another pid namespace). Nothing: nobody does.
    std::optional<int> holder() const { return call<&Object::holder>(); }
};

class RLockProxy : public detail::LockableProxy<detail::LockObject> {
  public:
    using LockableProxy::LockableProxy;
    std::optional<int> holder() const { return call<&Object::holder>(); }
};

// A condition with its lock, an RLock.
class ConditionProxy : public detail::LockableProxy<detail::ConditionObject> {
  public:
    using LockableProxy::LockableProxy;

    // Gives up the lock (however deep), waits to be notified, takes the lock again. Throws
    // std::logic_error if the caller does not hold it; so do the others.
    void wait() const { (void)wait_for(Timeout::forever()); }
    // False: the time is up.
    bool wait_for(Timeout timeout) const { return call<&Object::wait>(timeout.time()); }
    // Waits until predicate(), which runs here, is true. With a timeout, returns its last value.
    template <class Predicate>
    requires std::is_invocable_v<Predicate&>
    void wait(Predicate predicate) const {
        while (!predicate()) wait();
    }
    template <class Predicate>
    bool wait_for(Timeout timeout, Predicate predicate) const {
        const detail::Deadline deadline = detail::deadline_after(timeout);
        while (!predicate()) {
            if (detail::is_over(deadline)) return predicate();
            (void)wait_for(deadline ? Timeout(*deadline) : Timeout::forever());
        }
        return true;
    }
    void notify_one() const { notify(1); }
    void notify_all() const { notify(~0u); }
    void notify(unsigned count) const { call<&Object::notify>(count); }
    // How many wait and have not been notified.
    unsigned waiting() const { return call<&Object::waiting>(); }
};

class SemaphoreProxy : public Proxy<detail::SemaphoreObject> {
  public:
    using Proxy::Proxy;

    // Waits for a permit.
    void acquire() const { (void)try_acquire_for(Timeout::forever()); }
    [[nodiscard]] bool try_acquire() const { return try_acquire_for(Timeout()); }
    [[nodiscard]] bool try_acquire_for(Timeout timeout) const {
        return call<&Object::acquire>(timeout.time());
    }
    // Throws std::logic_error if a bounded one would have more than it was made with, and
    // std::overflow_error beyond 2^32 - 1; nothing is given then.
    void release(unsigned count = 1) const { call<&Object::release>(count); }
    unsigned value() const { return call<&Object::value>(); }
};

class EventProxy : public Proxy<detail::EventObject> {
  public:
    using Proxy::Proxy;

    // Wakes all who wait, and lets pass who comes later, until clear().
    void set() const { call<&Object::set>(); }
    void clear() const { call<&Object::clear>(); }
    bool is_set() const { return call<&Object::is_set>(); }
    // Who waits when set() is called is let pass, even if clear() follows at once.
    void wait() const { (void)wait_for(Timeout::forever()); }
    // False: the time is up.
    bool wait_for(Timeout timeout) const { return call<&Object::wait>(timeout.time()); }
};

class BarrierProxy : public Proxy<detail::BarrierObject> {
  public:
    using Proxy::Proxy;

    // Waits until all parties have come. Returns 0 for the first who came, parties() - 1 for the
    // last. Throws BrokenBarrierError, which says what broke it, and which process.
    unsigned wait() const { return wait_for(Timeout::forever()); }
    // One that waits longer breaks the barrier.
    unsigned wait_for(Timeout timeout) const { return call<&Object::wait>(timeout.time()); }
    // Who waits gets BrokenBarrierError; then it is as new.
    void reset() const { call<&Object::reset>(); }
    void abort() const { call<&Object::abort>(); }
    unsigned parties() const { return call<&Object::parties>(); }
    unsigned n_waiting() const { return call<&Object::n_waiting>(); }
    bool broken() const { return call<&Object::broken>(); }
};

}  // namespace sidestep
