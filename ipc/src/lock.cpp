#include <sidestep/lock.hpp>

#include <fmt/format.h>

#include <stdexcept>

#include "mapped_segment.hpp"
#include "owner_lock.hpp"

namespace sidestep {
namespace {

struct LockState {
    ObjectHeader header;
    OwnerLock lock;
};

struct RLockState {
    ObjectHeader header;
    OwnerLock lock;
    // Written by the holder only; cleared before the lock is given up. What a dead holder left is
    // never taken for one's own: thread tokens are unique.
    std::atomic<std::uint64_t> thread{0};
    std::uint32_t depth = 0;

    bool held() const {
        return lock.held_by_this_process() &&
               thread.load(std::memory_order_relaxed) == this_thread();
    }
    void enter(std::uint32_t count) {
        thread.store(this_thread(), std::memory_order_relaxed);
        depth = count;
    }
    void leave() {
        depth = 0;
        thread.store(0, std::memory_order_relaxed);
        lock.unlock();
    }
};

constexpr const char* kLock = "Lock";
constexpr const char* kRLock = "RLock";
constexpr std::uint64_t kLockKind = detail::object_kind("sidestep.Lock.1");
constexpr std::uint64_t kRLockKind = detail::object_kind("sidestep.RLock.1");

LockState& state(const detail::ObjectRef& ref, const Lock*) { return ref.as<LockState>(kLock); }
RLockState& state(const detail::ObjectRef& ref, const RLock*) { return ref.as<RLockState>(kRLock); }

[[noreturn]] void throw_not_held(const char* name, OwnerId owner, const char* who) {
    throw std::logic_error(
        owner == 0 ? fmt::format("unlock of a {} that nobody holds: lock it first", name)
                   : fmt::format("unlock of a {} that process {} holds: only {} can unlock it",
                                 name, pid_of(owner), who));
}

std::optional<int> pid_or_none(OwnerId owner) {
    if (owner == 0) return {};
    return pid_of(owner);
}

}  // namespace

Lock::Lock() : ref_(make_object<LockState>(kLockKind, kLock)) {}

void Lock::lock() { state(ref_, this).lock.lock(); }
bool Lock::try_lock() { return state(ref_, this).lock.try_lock(); }
bool Lock::lock_until(const detail::Deadline& deadline) {
    return state(ref_, this).lock.lock_until(deadline);
}

void Lock::unlock() {
    OwnerLock& lock = state(ref_, this).lock;
    if (!lock.held_by_this_process()) throw_not_held(kLock, lock.owner(), "that process");
    lock.unlock();
}

bool Lock::owner_died() const {
    OwnerLock& lock = state(ref_, this).lock;
    return lock.held_by_this_process() && lock.recovered();
}
std::optional<int> Lock::holder() const { return pid_or_none(state(ref_, this).lock.owner()); }

void Lock::save(OutputArchive& archive) const { ref_.save(archive, kLock); }
void Lock::load(InputArchive& archive) { ref_.load(archive, kLockKind, kLock); }

RLock::RLock() : ref_(make_object<RLockState>(kRLockKind, kRLock)) {}

void RLock::lock() { (void)lock_until({}); }

bool RLock::try_lock() {
    RLockState& self = state(ref_, this);
    if (self.held()) return ++self.depth, true;
    if (!self.lock.try_lock()) return false;
    self.enter(1);
    return true;
}

bool RLock::lock_until(const detail::Deadline& deadline) {
    RLockState& self = state(ref_, this);
    if (self.held()) return ++self.depth, true;
    if (!self.lock.lock_until(deadline)) return false;
    self.enter(1);
    return true;
}

void RLock::unlock() {
    RLockState& self = state(ref_, this);
    if (!self.held()) throw_not_held(kRLock, self.lock.owner(), "the thread that locked it");
    if (self.depth > 1)
        --self.depth;
    else
        self.leave();
}

unsigned RLock::release_all() {
    RLockState& self = state(ref_, this);
    if (!self.held()) return 0;
    unsigned count = self.depth;
    self.leave();
    return count;
}

void RLock::restore(unsigned depth) {
    RLockState& self = state(ref_, this);
    self.lock.lock();
    self.enter(depth);
}

bool RLock::owner_died() const {
    RLockState& self = state(ref_, this);
    return self.held() && self.lock.recovered();
}
std::optional<int> RLock::holder() const { return pid_or_none(state(ref_, this).lock.owner()); }
unsigned RLock::depth() const {
    RLockState& self = state(ref_, this);
    return self.held() ? self.depth : 0;
}

void RLock::save(OutputArchive& archive) const { ref_.save(archive, kRLock); }
void RLock::load(InputArchive& archive) { ref_.load(archive, kRLockKind, kRLock); }

}  // namespace sidestep
