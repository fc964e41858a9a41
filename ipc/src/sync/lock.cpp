#include <sidestep/lock.hpp>

#include <fmt/format.h>

#include <stdexcept>

#include "memory/mapped_segment.hpp"
#include "sync/owner_lock.hpp"

namespace sidestep::inline v0 {
namespace {

struct LockState {
    ObjectHeader header;
    OwnerLock lock;
};

constexpr const char* kLock = "Lock";
constexpr const char* kRLock = "RLock";
constexpr std::uint64_t kLockKind = detail::object_kind("sidestep.Lock.2");
constexpr std::uint64_t kRLockKind = detail::object_kind("sidestep.RLock.2");

OwnerLock& state(const detail::ObjectRef& ref, const char* name) {
    return ref.as<LockState>(name).lock;
}

[[noreturn]] void throw_not_held(const char* name, OwnerId owner, const char* who) {
    throw std::logic_error(
        owner == 0 ? fmt::format("unlock of a {0} that nobody holds: lock it first (or, if you "
                                 "did: a process that shares the {0} wrote over it)",
                                 name)
                   : fmt::format("unlock of a {} that process {} holds: only {} can unlock it",
                                 name, pid_of(owner), who));
}

std::optional<int> pid_or_none(OwnerId owner) {
    if (owner == 0) return {};
    return pid_of(owner);
}

}  // namespace

Lock::Lock() : ref_(make_object<LockState>(kLockKind, kLock)) {}

void Lock::lock() { state(ref_, kLock).lock(); }
bool Lock::try_lock() { return state(ref_, kLock).try_lock(); }
bool Lock::lock_until(const detail::Deadline& deadline) {
    return state(ref_, kLock).lock_until(deadline);
}

void Lock::unlock() {
    OwnerLock& lock = state(ref_, kLock);
    if (!lock.held_by_this_process()) throw_not_held(kLock, lock.owner(), "that process");
    lock.unlock();
}

bool Lock::held() const { return state(ref_, kLock).held_by_this_process(); }

bool Lock::owner_died() const {
    OwnerLock& lock = state(ref_, kLock);
    return lock.held_by_this_process() && lock.recovered();
}
std::optional<int> Lock::holder() const { return pid_or_none(state(ref_, kLock).owner()); }

void Lock::save(OutputArchive& archive) const { ref_.save(archive, kLock); }
void Lock::load(InputArchive& archive) { ref_.load(archive, kLockKind, kLock, sizeof(LockState)); }

// Which thread of this process holds the lock, and how often: no other process can write it.
// Guarded by the lock, but for a look at the thread. What is here while another process holds the
// lock (a forked child's copy of its parent's, say) means nothing.
struct RLock::Holder {
    std::atomic<std::uint64_t> thread{0};  // relaxed: one's own token is found by oneself only
    std::uint32_t depth = 0;

    void enter(std::uint32_t count) {
        thread.store(this_thread(), std::memory_order_relaxed);
        depth = count;
    }
    void leave(OwnerLock& lock) {
        depth = 0;
        thread.store(0, std::memory_order_relaxed);
        lock.unlock();
    }
};

RLock::RLock()
    : ref_(make_object<LockState>(kRLockKind, kRLock)),
      holder_(MappedSegment::beside<Holder>(ref_)) {}

bool RLock::held() const {
    return state(ref_, kRLock).held_by_this_process() &&
           holder_->thread.load(std::memory_order_relaxed) == this_thread();
}

void RLock::lock() { (void)lock_until({}); }

bool RLock::try_lock() {
    if (held()) return ++holder_->depth, true;
    if (!state(ref_, kRLock).try_lock()) return false;
    holder_->enter(1);
    return true;
}

bool RLock::lock_until(const detail::Deadline& deadline) {
    if (held()) return ++holder_->depth, true;
    if (!state(ref_, kRLock).lock_until(deadline)) return false;
    holder_->enter(1);
    return true;
}

void RLock::unlock() {
    if (!held()) throw_not_held(kRLock, state(ref_, kRLock).owner(), "the thread that locked it");
    if (holder_->depth > 1)
        --holder_->depth;
    else
        holder_->leave(state(ref_, kRLock));
}

unsigned RLock::release_all() {
    if (!held()) return 0;
    unsigned count = holder_->depth;
    holder_->leave(state(ref_, kRLock));
    return count;
}

void RLock::restore(unsigned depth) {
    state(ref_, kRLock).lock();
    holder_->enter(depth);
}

bool RLock::owner_died() const { return held() && state(ref_, kRLock).recovered(); }
std::optional<int> RLock::holder() const { return pid_or_none(state(ref_, kRLock).owner()); }
unsigned RLock::depth() const { return held() ? holder_->depth : 0; }

void RLock::save(OutputArchive& archive) const { ref_.save(archive, kRLock); }
void RLock::load(InputArchive& archive) {
    detail::ObjectRef ref;
    ref.load(archive, kRLockKind, kRLock, sizeof(LockState));
    holder_ = MappedSegment::beside<Holder>(ref);
    ref_ = std::move(ref);
}

}  // namespace sidestep
