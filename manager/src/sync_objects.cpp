#include <sidestep/detail/sync_objects.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include <sidestep/barrier.hpp>
#include <sidestep/container_proxies.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/queue_proxies.hpp>
#include <sidestep/remote_error.hpp>

namespace sidestep::inline v0 {
namespace {
[[maybe_unused]] const bool registered_errors =
    register_exception<NoSuchObject>() && register_exception<BrokenBarrierError>() &&
    register_exception<QueueShutDown>() && register_exception<PutAfterShutDown>();

std::string process_text(int pid) {  // 0: on another machine, or in another pid namespace
    return pid != 0 ? fmt::format("process {}", pid) : "a process that the server cannot see";
}
}  // namespace

namespace detail {

// --- locks -----------------------------------------------------------------------------------

bool LockObject::is_holder(const Caller& caller) const {
    if (depth_ == 0 || holder_.client != caller.client) return false;
    return !recursive_ || holder_.thread == caller.thread;
}

bool LockObject::lock(Nanoseconds timeout) {
    const Caller caller = caller_here();
    if (recursive_ && is_holder(caller)) {
        ++depth_;
        return true;
    }
    if (!wait_here([&] { return depth_ == 0; }, deadline_after(Timeout(timeout)))) return false;
    depth_ = 1;
    holder_ = caller;
    owner_died_ = std::exchange(next_is_told_, false);
    return true;
}

void LockObject::expect_held(const char* purpose) const {
    if (!is_holder(caller_here()))
        throw std::logic_error(fmt::format(
            "{}: the caller does not hold the lock{}", purpose,
            depth_ > 0 ? fmt::format(", {} does", process_text(holder_.pid)) : std::string()));
}

void LockObject::unlock() {
    expect_held("unlock");
    if (--depth_ == 0) owner_died_ = false;
}

bool LockObject::owner_died() const { return owner_died_ && is_holder(caller_here()); }

std::optional<int> LockObject::holder() const {
    return depth_ > 0 ? std::optional<int>(holder_.pid) : std::nullopt;
}

void LockObject::client_gone(std::uint64_t client) {
    if (depth_ == 0 || holder_.client != client) return;
    depth_ = 0;
    owner_died_ = false;
    next_is_told_ = true;
}

unsigned LockObject::release_all() { return std::exchange(depth_, 0u); }
void LockObject::restore(unsigned depth) {
    (void)lock(Timeout::forever().time());
    depth_ = depth;
}

bool ConditionObject::wait(Nanoseconds timeout) {
    lock_.expect_held("wait");
    auto place = waiters_.insert(waiters_.end(), false);
    const unsigned depth = lock_.release_all();
    bool notified = false;
    try {
        notified = wait_here([&] { return *place; }, deadline_after(Timeout(timeout)));
    } catch (...) {  // the caller is gone: its notification, if there was one, is another's
        const bool mine = *place;
        waiters_.erase(place);
        if (mine) notify_next();
        throw;
    }
    waiters_.erase(place);
    try {
        lock_.restore(depth);
    } catch (...) {  // it is gone by now
        if (notified) notify_next();
        throw;
    }
    return notified;
}

void ConditionObject::notify_next() {
    for (bool& waiter : waiters_) {
        if (waiter) continue;
        waiter = true;
        return;
    }
}
void ConditionObject::notify(unsigned count) {
    lock_.expect_held("notify");
    for (unsigned left = std::min(count, waiting()); left > 0; --left) notify_next();
}
unsigned ConditionObject::waiting() const {
    return static_cast<unsigned>(std::count(waiters_.begin(), waiters_.end(), false));
}

// --- semaphore, event, barrier -----------------------------------------------------------------

SemaphoreObject::SemaphoreObject(unsigned permits, bool bounded)
    : permits_(permits), limit_(bounded ? permits : ~0u) {
    if (permits > unsigned(INT_MAX) || (bounded && permits == 0))
        throw std::invalid_argument(
            fmt::format("a semaphore of {} permits: give 1 to {} (a plain one may start at 0)",
                        permits, INT_MAX));
}
bool SemaphoreObject::acquire(Nanoseconds timeout) {
    if (!wait_here([&] { return permits_ > 0; }, deadline_after(Timeout(timeout)))) return false;
    --permits_;
    return true;
}
void SemaphoreObject::release(unsigned count) {
    if (count > limit_ - permits_) {
        if (limit_ != ~0u)
            throw std::logic_error(
                fmt::format("release({}): the semaphore was made with {} permits, and has {}",
                            count, limit_, permits_));
        throw std::overflow_error("release: a semaphore has 2^32 - 1 permits at most");
    }
    permits_ += count;
}

void EventObject::set() {
    set_ = true;
    ++times_set_;
}
bool EventObject::wait(Nanoseconds timeout) {
    const std::uint64_t before = times_set_;
    return wait_here([&] { return set_ || times_set_ != before; },
                     deadline_after(Timeout(timeout)));
}

BarrierObject::BarrierObject(unsigned parties) : parties_(parties) {
    if (parties == 0) throw std::invalid_argument("a barrier needs one party at least");
}

unsigned BarrierObject::wait(Nanoseconds timeout) {
    if (broken_) throw_broken();
    const std::shared_ptr<Round> mine = round_;
    if (arrived_ + 1 == parties_) {
        end_round(Round::End::passed);
        return parties_ - 1;
    }
    const unsigned index = arrived_++;
    bool done = false;
    try {
        done = wait_here([&] { return mine->end != Round::End::none || broken_; },
                         deadline_after(Timeout(timeout)));
    } catch (...) {  // the caller is gone, and will not come again
        if (mine->end == Round::End::none) {
            --arrived_;
            break_by("has gone: its connection has ended");
        }
        throw;
    }
    if (mine->end == Round::End::passed) return index;
    if (mine->end == Round::End::reset)
        throw BrokenBarrierError(fmt::format(
            "sent away from the barrier: {} called reset(); wait() again", process_text(mine->by)));
    --arrived_;
    if (!done) break_by("timed out before all parties had come");
    throw_broken();
}

// The first cause stays.
void BarrierObject::break_by(const char* cause) {
    if (std::exchange(broken_, true)) return;
    cause_ = cause;
    broken_by_ = caller_here().pid;
}

void BarrierObject::throw_broken() const {
    throw BrokenBarrierError(
        fmt::format("the barrier is broken: {} {}; reset() makes it usable again",
                    process_text(broken_by_), cause_));
}

void BarrierObject::abort() { break_by("called abort()"); }

void BarrierObject::end_round(Round::End how) {
    auto next = std::make_shared<Round>();
    *std::exchange(round_, std::move(next)) = {how, caller_here().pid};
    arrived_ = 0;
}

void BarrierObject::reset() {
    if (arrived_ > 0 || broken_) end_round(Round::End::reset);
    broken_ = false;
}

// --- what the others throw -----------------------------------------------------------------------

void throw_no_key() { throw std::out_of_range("the dict has no such key"); }
void throw_no_place(std::size_t place, std::size_t size) {
    throw std::out_of_range(fmt::format("the list has no place {}: its size is {}", place, size));
}
void throw_no_value() { throw std::out_of_range("the list has no such element"); }
void throw_queue_shut_down() { throw QueueShutDown("the queue was shut down, and is empty"); }
void throw_put_after_shut_down() { throw PutAfterShutDown("the queue was shut down"); }
void throw_too_many_done() {
    throw std::logic_error("task_done: all items that were put are done already");
}

}  // namespace detail
}  // namespace sidestep
