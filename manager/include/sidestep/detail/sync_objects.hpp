// What the proxies of locks, events... refer to, in the server. Internal: see sync_proxies.hpp.
//
// Each is a monitor (hosted.hpp): its members run one at a time, but while one of them waits.
#pragma once

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>

#include <sidestep/detail/hosted.hpp>

namespace sidestep::inline v0::detail {

using Nanoseconds = std::chrono::nanoseconds;

// Held by a process (recursive: by a thread, more than once).
class LockObject {
  public:
    explicit LockObject(bool recursive) : recursive_(recursive) {}
    // False: the time is up.
    bool lock(Nanoseconds timeout);
    void unlock();
    bool owner_died() const;  // for the holder; false for all others
    std::optional<int> holder() const;
    void client_gone(std::uint64_t client);

    // For the condition: gives up the lock, however deep, and takes it again.
    void expect_held(const char* purpose) const;
    unsigned release_all();
    void restore(unsigned depth);

  private:
    bool is_holder(const Caller& caller) const;
    const bool recursive_;
    unsigned depth_ = 0;
    Caller holder_;
    bool owner_died_ = false;
    bool next_is_told_ = false;  // the holder died: whoever has it next is to know
};

class ConditionObject {
  public:
    bool lock(Nanoseconds timeout) { return lock_.lock(timeout); }
    void unlock() { lock_.unlock(); }
    bool owner_died() const { return lock_.owner_died(); }
    bool wait(Nanoseconds timeout);
    void notify(unsigned count);
    unsigned waiting() const;
    void client_gone(std::uint64_t client) { lock_.client_gone(client); }

  private:
    void notify_next();
    LockObject lock_{true};
    std::list<bool> waiters_;  // in the order in which they came: notified?
};

class SemaphoreObject {
  public:
    SemaphoreObject(unsigned permits, bool bounded);
    bool acquire(Nanoseconds timeout);
    void release(unsigned count);
    unsigned value() const { return permits_; }

  private:
    unsigned permits_;
    const unsigned limit_;
};

class EventObject {
  public:
    void set();
    void clear() { set_ = false; }
    bool is_set() const { return set_; }
    bool wait(Nanoseconds timeout);

  private:
    bool set_ = false;
    std::uint64_t times_set_ = 0;
};

class BarrierObject {
  public:
    explicit BarrierObject(unsigned parties);
    unsigned wait(Nanoseconds timeout);
    void reset();
    void abort();
    unsigned parties() const { return parties_; }
    unsigned n_waiting() const { return arrived_; }
    bool broken() const { return broken_; }

  private:
    // Each party knows its own: when it goes on, there may have been more of them.
    struct Round {
        enum class End : std::uint8_t { none, passed, reset };
        End end = End::none;
        int by = 0;  // who reset it
    };
    void end_round(Round::End how);
    void break_by(const char* cause);
    [[noreturn]] void throw_broken() const;

    const unsigned parties_;
    unsigned arrived_ = 0;
    std::shared_ptr<Round> round_ = std::make_shared<Round>();
    bool broken_ = false;
    // What broke it, by which process.
    const char* cause_ = "";
    int broken_by_ = 0;
};

}  // namespace sidestep::detail
