#include <sidestep/detail/sync_objects.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
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
            depth_ > 0 ? fmt::format(", process {} does", holder_.pid) : std::string()));
}

void LockObject::unlock() {
    expect_held("unlock");
    if (--depth_ == 0) owner_died_ = false;
}

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
    const char* why = "the barrier is broken: reset() repairs it";
    if (broken_) throw BrokenBarrierError(why);
    const std::shared_ptr<Round> mine = round_;
    if (arrived_ + 1 == parties_) {
        end_round(Round::passed);
        return parties_ - 1;
    }
    const unsigned index = arrived_++;
    bool done = false;
    try {
        done = wait_here([&] { return *mine != Round::open || broken_; },
                         deadline_after(Timeout(timeout)));
    } catch (...) {  // the caller is gone, and will not come again
        leave(*mine);
        throw;
    }
    if (*mine == Round::passed) return index;
    leave(*mine);
    throw BrokenBarrierError(!done ? "the barrier broke: not all came in time"
                             : *mine == Round::reset
                                 ? "the barrier was reset while this party waited"
                                 : why);
}

// Without all that were to come.
void BarrierObject::leave(Round round) {
    if (round != Round::open) return;
    broken_ = true;
    --arrived_;
}

void BarrierObject::end_round(Round how) {
    auto next = std::make_shared<Round>(Round::open);
    *std::exchange(round_, std::move(next)) = how;
    arrived_ = 0;
}

void BarrierObject::reset() {
    if (arrived_ > 0 || broken_) end_round(Round::reset);
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
