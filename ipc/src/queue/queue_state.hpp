// What a queue is: in shared memory (State), and in each process (Local).
#pragma once

#include <sidestep/detail/queue_core.hpp>

#include <algorithm>
#include <atomic>
#include <span>

#include "memory/mapped_segment.hpp"
#include "queue/byte_ring.hpp"
#include "queue/checked_number.hpp"
#include "sync/spin.hpp"
#include "sync/wait_word.hpp"
#include "sys/fd.hpp"

namespace sidestep::inline v0::detail {

// An item on loan. Written by the holder of C.
//
// E1 A loan is an occupied place whose item the head has passed: it is filled in first, with the
//    item's number, and the store of the head commits it. Whoever finds that C's holder died frees
//    the place whose number the head has not passed, before it does anything else
//    (repair_loans()).
// E2 A dead owner's loan goes to another by CAS: it has one owner at each moment.
// E3 Unfinished are the records in the ring and the loans; read in this order, none is missed.
// E4 A place has an owner first, and then a check; it loses the check first, and then the owner. So
//    one with a check and without an owner was written over, unless C's holder changes it right
//    now; one with an owner and without a check is in the middle of either (repair_loans()).
struct Loan {
    static constexpr std::size_t kPlaces = 256;
    static constexpr std::size_t kMaxBytes = std::size_t(16) << 20;

    std::atomic<OwnerId> owner{0};
    std::uint64_t ticket = 0;  // the oldest of a process ends first
    std::uint64_t length = 0;
    std::uint32_t number = 0;             // the head's count when it stood before the item
    std::atomic<std::uint32_t> check{0};  // of length and number; 0: it is free

    static std::uint32_t check_of(std::uint64_t length, std::uint32_t number) {
        std::uint64_t hash = length * 0x9e3779b97f4a7c15u ^ (std::uint64_t(number) << 32 | 1);
        return static_cast<std::uint32_t>(hash * 0xd6e8feb86659fd93u >> 32) | 1;
    }
    void free() {
        check.store(0);
        owner.store(0);
    }
    // It has no owner, though nobody freed it. For who does not hold C: perhaps.
    bool is_robbed() const { return owner.load() == 0 && check.load() != 0; }
};

struct QueueCore::State {
    static constexpr std::uint32_t kShut = 1, kDrop = 2, kPolled = 4, kProduced = 8;
    static constexpr std::size_t kBytesBegin = 16 << 10;  // after this, page-aligned

    ObjectHeader header;
    // Constant after construction, and read once in each process (Constants).
    std::uint32_t units = 0;
    std::uint32_t max_records = 0;
    std::uint32_t lease = 0;
    // Bits are set by the holder of P, for ever.
    alignas(kCacheLine) CheckedNumber flags;
    std::uint32_t signalled = 0;  // guarded by P: the timer of fd() is set
    RingWords ring;
    alignas(kCacheLine) WaitWord items;
    alignas(kCacheLine) WaitWord space;
    alignas(kCacheLine) CheckedNumber done;  // how many records, modulo 2^32
    WaitWord all_done;
    std::uint64_t next_ticket = 0;  // guarded by C
    CheckedNumber loans_used;       // written under C: the others were never taken
    Loan loans[Loan::kPlaces];

    bool has(std::uint32_t flag) const { return (flags.load() & flag) != 0; }
    void set(std::uint32_t more) { flags.store(flags.load() | more); }  // by the holder of P
    std::span<Loan> used_loans() {
        return {loans, std::min<std::size_t>(loans_used.load(), Loan::kPlaces)};
    }
    void repair_loans();  // E1. By each holder of C of a queue with loans, first
    std::byte* bytes() { return reinterpret_cast<std::byte*>(this) + kBytesBegin; }
};

// Spins before sleeping, as long as that pays: it has to succeed every third time.
class AdaptiveSpin {
  public:
    template <class Done>
    bool operator()(Done done) {
        int score = score_.load(std::memory_order_relaxed);  // a hint, as is all of it
        if (score < kPays && (tries_.fetch_add(1, std::memory_order_relaxed) & 63) != 0)
            return done();
        bool success = spin_until(spin_budget(), done);
        score = success ? std::min(score + 2, kBest) : std::max(score - 1, 0);
        score_.store(score, std::memory_order_relaxed);
        return success;
    }

  private:
    static constexpr int kPays = 8, kBest = 24;
    std::atomic<int> score_{kBest};
    std::atomic<unsigned> tries_{0};
};

// The timer that a queue's fd() gives out, a flag that can be polled: every handle of the queue in
// a process may share it.
struct QueueEvent {
    explicit QueueEvent(Fd own) : fd(std::move(own)) {}
    const Fd fd;
    const std::uint64_t identity = new_identity();
};

// What is constant of a queue, out of other processes' reach.
struct QueueConstants {
    std::uint32_t units = 0;
    std::uint32_t max_records = 0;
    bool lease = false;
};

struct QueueCore::Local {
    Local(ObjectRef reference, const QueueConstants& constants,
          std::shared_ptr<QueueEvent> its_event);
    ObjectRef ref;
    State& state;
    const QueueConstants constant;
    ByteRing ring;
    std::shared_ptr<QueueEvent> event;
    std::atomic<bool> closed{false};
    std::atomic<bool> used{false};  // something was put
    AdaptiveSpin spin;
    std::atomic<bool> look_for_dead{false};  // a hint: it is time to
    std::atomic<std::int64_t> next_look{0};  // steady clock, ns
    const Fd& segment_fd() const { return ref.segment()->segment().fd(); }
    std::byte* loan_bytes(std::size_t place) const {
        return state.bytes() + std::size_t(constant.units) * kUnit + place * Loan::kMaxBytes;
    }
};

// Locks are held for as long as a copy takes. Who does not want to wait waits that long, since
// otherwise try_get() would not find what is there; but not for a stopped process.
inline bool take(OwnerLock& lock, const Deadline& deadline) {
    constexpr std::chrono::milliseconds kLeast{100};
    if (lock.try_lock(false)) return true;
    return lock.lock_until(deadline ? std::max(*deadline, sys::Clock::now() + kLeast) : Deadline());
}

// Gives an OwnerLock up at the end of a scope.
class Unlocker {
  public:
    explicit Unlocker(OwnerLock& lock) : lock_(lock) {}
    Unlocker(const Unlocker&) = delete;
    Unlocker& operator=(const Unlocker&) = delete;
    ~Unlocker() { lock_.unlock(); }

  private:
    OwnerLock& lock_;
};

}  // namespace sidestep::detail
