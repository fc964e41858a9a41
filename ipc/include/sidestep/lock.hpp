// Lock and RLock: mutual exclusion between processes that survives kill -9 of the holder.
//
// A handle is a small value: its copies, also those that travelled to other processes, are the same
// lock. Both are C++ Lockables: std::scoped_lock, std::unique_lock and std::lock work.
//
//                 | Lock                                    | RLock
//     owner       | a process: any of its threads unlocks   | a thread of a process
//     lock again  | waits for ever (try_lock: false)        | counts
//     not yours   | unlock throws std::logic_error          | unlock throws std::logic_error
//
// Ownership:  the lock lives in shared memory without a name, for as long as any handle does.
// Threads:    thread-safe and process-shared.
// Fork:       a forked child has the handle too, but not what its parent holds.
// Peer death: the kernel says that a holder has died (never a timeout); the next who wants the
//             lock gets it within some 5 ms, and owner_died() tells so: what it guards may be half
//             changed. A stopped holder (SIGSTOP) keeps the lock. A process that execs while
//             it holds the lock keeps it until it ends; so does a process whose thread ends.
//             A lock that a process wrote over is like a dead holder's: the next gets it, and
//             owner_died(); who held it learns it from unlock(), which throws.
// Errors:     std::logic_error for unlocking what one does not hold, and for a handle that was
//             moved from. std::system_error if there is no shared memory to be had.
// Limits:     not fair; unlocking costs a system call if somebody waits. Between pid namespaces a
//             death goes unnoticed.
#pragma once

#include <chrono>
#include <memory>
#include <optional>

#include <sidestep/detail/object_ref.hpp>

namespace sidestep::inline v0 {

class Condition;

class Lock {
  public:
    Lock();
    explicit Lock(detail::Blank) noexcept {}

    void lock();
    // False: another process, or this one, holds it.
    [[nodiscard]] bool try_lock();
    [[nodiscard]] bool try_lock_for(Timeout timeout) {
        return lock_until(detail::deadline_after(timeout));
    }
    template <class Clock, class Duration>
    [[nodiscard]] bool try_lock_until(const std::chrono::time_point<Clock, Duration>& moment) {
        return lock_until(detail::deadline_at(moment));
    }
    void unlock();

    // For the holder: the holder before died holding the lock. Until unlock().
    bool owner_died() const;
    // The pid of the process that holds it, if any does (it may be dead).
    std::optional<int> holder() const;

    // The same lock?
    friend bool operator==(const Lock& a, const Lock& b) { return a.ref_ == b.ref_; }

    void save(OutputArchive& archive) const;
    void load(InputArchive& archive);

  private:
    friend class Condition;
    bool held() const;  // by this process
    bool lock_until(const detail::Deadline& deadline);
    detail::ObjectRef ref_;
};

class RLock {
  public:
    RLock();
    explicit RLock(detail::Blank) noexcept {}

    void lock();
    [[nodiscard]] bool try_lock();
    [[nodiscard]] bool try_lock_for(Timeout timeout) {
        return lock_until(detail::deadline_after(timeout));
    }
    template <class Clock, class Duration>
    [[nodiscard]] bool try_lock_until(const std::chrono::time_point<Clock, Duration>& moment) {
        return lock_until(detail::deadline_at(moment));
    }
    // Counts down; the last frees it.
    void unlock();

    bool owner_died() const;
    std::optional<int> holder() const;
    // How many times the calling thread holds it.
    unsigned depth() const;

    friend bool operator==(const RLock& a, const RLock& b) { return a.ref_ == b.ref_; }

    void save(OutputArchive& archive) const;
    void load(InputArchive& archive);

  private:
    friend class Condition;
    struct Holder;
    bool lock_until(const detail::Deadline& deadline);
    bool held() const;
    unsigned release_all();  // for Condition: returns the depth
    void restore(unsigned depth);
    detail::ObjectRef ref_;
    std::shared_ptr<Holder> holder_;  // this process's, for all its handles
};

}  // namespace sidestep
