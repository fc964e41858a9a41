#include <sidestep/condition.hpp>

#include <algorithm>
#include <span>
#include <stdexcept>

#include <sidestep/archive.hpp>

#include "memory/mapped_segment.hpp"
#include "memory/participant.hpp"
#include "sync/wait_word.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr unsigned kPlaces = 256;
constexpr const char* kConditionName = "Condition";
constexpr std::uint64_t kConditionKind = detail::object_kind("sidestep.Condition.2");

}  // namespace

// A place where one thread waits. Everything is guarded by the condition's lock, except that the
// waiter reads (and sleeps on) `notified` without it. A place becomes taken by the store of
// `owner`, its last: who is killed before has not begun to wait.
struct ConditionPlace {
    std::atomic<OwnerId> owner{0};
    std::uint64_t ticket = 0;  // first come, first served
    std::atomic<std::uint32_t> notified{0};
    std::uint32_t reserved = 0;
};

struct Condition::Waiters {
    ObjectHeader header;
    std::uint64_t last_ticket = 0;
    // Places at and beyond have never been taken. Relaxed: guarded by the lock. Atomic, so that
    // what is checked is what is used.
    std::atomic<std::uint32_t> used{0};
    Homes homes;
    ConditionPlace places[kPlaces];

    std::uint32_t count() const {
        return std::min<std::uint32_t>(used.load(std::memory_order_relaxed), kPlaces);
    }
    std::span<ConditionPlace> used_places() { return {places, count()}; }
    // By who waits at the place: others still see it there, unless it was notified. (If not, it was
    // written over, and nobody will.)
    bool is_seen(const ConditionPlace& place, std::uint64_t ticket) const {
        return &place < places + count() && place.ticket == ticket &&
               place.owner.load(std::memory_order_relaxed) == this_process();
    }
    ConditionPlace& enter(std::uint64_t ticket);  // 0: a new one
    ConditionPlace* longest_waiting();
    bool wake_one();
};

namespace {

bool is_free(const ConditionPlace& place) {
    return place.owner.load(std::memory_order_relaxed) == 0;
}
bool is_waiting(const ConditionPlace& place) {
    return !is_free(place) && place.notified.load(std::memory_order_relaxed) == 0;
}

}  // namespace

ConditionPlace& Condition::Waiters::enter(std::uint64_t ticket) {
    homes.enter(this_process());
    ConditionPlace* found = nullptr;
    for (ConditionPlace& place : used_places())
        if (!found && is_free(place)) found = &place;
    if (std::uint32_t next = count(); !found && next < kPlaces) {
        found = &places[next];
        used.store(next + 1, std::memory_order_relaxed);
    }
    for (std::uint32_t i = 0; i < kPlaces && !found; ++i)
        if (!homes.is_alive(places[i].owner.load())) found = &places[i];
    if (!found)
        throw std::length_error(
            "256 threads wait on this Condition already: spread them over several");
    found->ticket = ticket != 0 ? ticket : ++last_ticket;
    found->notified.store(0, std::memory_order_relaxed);
    found->owner.store(this_process(), std::memory_order_release);
    return *found;
}

ConditionPlace* Condition::Waiters::longest_waiting() {
    ConditionPlace* longest = nullptr;
    for (ConditionPlace& place : used_places())
        if (is_waiting(place) && (!longest || place.ticket < longest->ticket)) longest = &place;
    return longest;
}

// False: nobody waits.
bool Condition::Waiters::wake_one() {
    for (unsigned i = 0; i < kPlaces; ++i) {  // each is the last, or lets go of a place
        ConditionPlace* place = longest_waiting();
        if (!place) return false;
        place->notified.store(1, std::memory_order_release);
        // Who slept there lives. If nobody did, it is on its way to sleep or back, or dead.
        if (sys::futex_wake(place->notified, 1) == 1 || homes.is_alive(place->owner.load()))
            return true;
        place->owner.store(0, std::memory_order_relaxed);
    }
    return false;
}

Condition::Condition(RLock lock)
    : lock_(std::move(lock)), ref_(make_object<Waiters>(kConditionKind, kConditionName)) {}
Condition::Condition(Lock lock)
    : lock_(std::move(lock)), ref_(make_object<Waiters>(kConditionKind, kConditionName)) {}

Condition::Waiters& Condition::waiters() const { return ref_.as<Waiters>(kConditionName); }

void Condition::lock() {
    std::visit([](auto& lock) { lock.lock(); }, lock_);
}
bool Condition::try_lock() {
    return std::visit([](auto& lock) { return lock.try_lock(); }, lock_);
}
void Condition::unlock() {
    std::visit([](auto& lock) { lock.unlock(); }, lock_);
}
bool Condition::owner_died() const {
    return std::visit([](const auto& lock) { return lock.owner_died(); }, lock_);
}

bool Condition::held() const {
    if (auto* rlock = std::get_if<RLock>(&lock_)) return rlock->depth() > 0;
    return std::get<Lock>(lock_).held();
}

bool Condition::wait_step(const detail::Deadline& deadline, unsigned round, std::uint64_t* ticket) {
    Waiters& all = waiters();
    if (!held())
        throw std::logic_error(
            "Condition::wait without holding its lock: lock the condition first");
    ConditionPlace& place = all.enter(ticket ? *ticket : 0);
    const std::uint64_t own = place.ticket;
    if (ticket) *ticket = own;
    unsigned depth = 1;
    if (auto* rlock = std::get_if<RLock>(&lock_))
        depth = rlock->release_all();
    else
        unlock();
    bool early = round != kNotified;
    BoundedSleep sleep(deadline, early ? round : 0);
    // A look without the lock: nothing of it changes while one waits unnotified.
    bool seen = true;
    while (place.notified.load(std::memory_order_acquire) == 0) {
        sys::Wake wake = sys::futex_wait(place.notified, 0, sleep.next());
        if (wake != sys::Wake::timeout) continue;
        seen = all.is_seen(place, own) || place.notified.load(std::memory_order_acquire) != 0;
        if (!seen || early || sleep.expired()) break;
    }
    if (auto* rlock = std::get_if<RLock>(&lock_))
        rlock->restore(depth);
    else
        lock();
    bool notified = place.notified.load(std::memory_order_relaxed) != 0;
    // Under the lock. Not another's, who has the place if it was written over.
    if (all.is_seen(place, own)) place.owner.store(0, std::memory_order_relaxed);
    if (!seen && !notified) detail::throw_damaged(kConditionName);
    return notified;
}

void Condition::notify(unsigned count) {
    Waiters& all = waiters();
    if (!held())
        throw std::logic_error(
            "Condition::notify without holding its lock: lock the condition first");
    for (unsigned i = 0; i < std::min(count, kPlaces); ++i)  // so many can wait
        if (!all.wake_one()) return;
}

unsigned Condition::waiting() const {
    Waiters& all = waiters();
    all.homes.enter(this_process());
    unsigned count = 0;
    for (const ConditionPlace& place : all.used_places())
        count += is_waiting(place) && all.homes.is_alive(place.owner.load());
    return count;
}

void Condition::save(OutputArchive& archive) const {
    archive(static_cast<std::uint8_t>(lock_.index()));
    std::visit([&](const auto& lock) { lock.save(archive); }, lock_);
    ref_.save(archive, kConditionName);
}

void Condition::load(InputArchive& archive) {
    std::uint8_t index = 0;
    archive(index);
    if (index == 0)
        lock_ = RLock(detail::Blank{});
    else
        lock_ = Lock(detail::Blank{});
    std::visit([&](auto& lock) { lock.load(archive); }, lock_);
    ref_.load(archive, kConditionKind, kConditionName, sizeof(Waiters));
}

}  // namespace sidestep
