// JoinableQueue: counting what is done, and items on loan (queue_state.hpp, E1 to E3).
#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <new>
#include <stdexcept>

#include "queue/queue_state.hpp"

namespace sidestep::inline v0::detail {
namespace {

using namespace std::chrono_literals;
constexpr std::chrono::nanoseconds kLook = 50ms;  // how often a busy consumer asks who has died

// Whole, or not at all.
void write_record(RecordBuffer& out, const std::byte* data, std::uint64_t length) {
    constexpr std::uint64_t kZero = 0;
    const std::size_t before = out.size();
    try {
        out.write(&length, sizeof length);
        out.write(data, static_cast<std::size_t>(length));
        if (length % kUnit != 0) out.write(&kZero, kUnit - length % kUnit);
    } catch (const std::bad_alloc&) {
        out.truncate(before);
        throw;
    }
}

std::size_t count(std::span<const Loan> loans) {
    std::size_t taken = 0;
    for (const Loan& loan : loans) taken += loan.owner.load() != 0;
    return taken;
}
bool any_robbed(std::span<const Loan> loans) {
    return std::any_of(loans.begin(), loans.end(),
                       [](const Loan& loan) { return loan.is_robbed(); });
}

}  // namespace

bool QueueCore::time_to_look(Local& own) {
    std::int64_t now = sys::Clock::now().time_since_epoch().count();
    bool due = now >= own.next_look.load(std::memory_order_relaxed);
    if (!due && !own.look_for_dead.load(std::memory_order_relaxed)) return false;
    own.next_look.store(now + kLook.count(), std::memory_order_relaxed);
    own.look_for_dead.store(false, std::memory_order_relaxed);
    return true;
}

void QueueCore::State::repair_loans() {
    if (ring.get_lock.recovered()) {
        std::uint32_t next = RingCursor::unpack(ring.head.load()).count;
        for (Loan& loan : used_loans()) {
            if (loan.owner.load() == 0) continue;
            if (loan.number == next)
                loan.free();
            else if (loan.check.load() == 0)  // it was about to be freed, and is another's now
                loan.check.store(Loan::check_of(loan.length, loan.number));
        }
    }
    if (any_robbed(used_loans())) throw_ring_damaged();  // E4
}

// E2. By the holder of C.
bool QueueCore::take_over(Local& own, RecordBuffer& out) {
    State& all = own.state;
    OwnerId self = this_process(), living = self;
    for (std::size_t i = 0; i < all.used_loans().size(); ++i) {
        Loan& loan = all.loans[i];
        OwnerId owner = loan.owner.load();
        if (owner == 0 || owner == living) continue;
        if (all.ring.get_lock.is_alive(owner)) {
            living = owner;
            continue;
        }
        const volatile std::uint64_t& shared_length = loan.length;
        std::uint64_t length = shared_length;  // a copy: what is checked is what is used
        if (length > Loan::kMaxBytes || loan.check.load() != Loan::check_of(length, loan.number))
            throw_ring_damaged();
        const std::size_t before = out.size();
        write_record(out, own.loan_bytes(i), length);  // first: it may throw
        loan.ticket = all.next_ticket++;
        if (loan.owner.compare_exchange_strong(owner, self)) return true;
        out.truncate(before);
    }
    return false;
}

// E1. By the holder of C. False: no item, or no place for a loan.
bool QueueCore::lend(Local& own, RecordBuffer& out) {
    State& all = own.state;
    if (!own.ring.has_records()) return false;
    for (std::size_t i = 0; i < Loan::kPlaces; ++i) {
        Loan& loan = all.loans[i];
        if (loan.owner.load() != 0) continue;
        auto [item, length] = own.ring.front();
        if (length > Loan::kMaxBytes) throw_ring_damaged();
        write_record(out, item, length);  // first: it may throw
        std::memcpy(own.loan_bytes(i), item, static_cast<std::size_t>(length));
        loan.ticket = all.next_ticket++;
        loan.length = length;
        loan.number = RingCursor::unpack(all.ring.head.load(std::memory_order_relaxed)).count;
        if (i >= all.loans_used.load()) all.loans_used.store(static_cast<std::uint32_t>(i) + 1);
        loan.owner.store(this_process());  // E4
        loan.check.store(Loan::check_of(length, loan.number));
        own.ring.commit();
        return true;
    }
    throw std::logic_error(fmt::format(
        "{} items of this JoinableQueue are on loan: call task_done() for each item that was got",
        Loan::kPlaces));
}

std::uint32_t QueueCore::take_on_loan(Local& own, std::uint32_t limit, RecordBuffer& out,
                                      bool look) {
    State& all = own.state;
    all.repair_loans();
    std::uint32_t taken = 0;
    try {
        while (taken < limit && look && take_over(own, out)) ++taken;
        while (taken < limit && (taken == 0 || count(all.used_loans()) < Loan::kPlaces) &&
               lend(own, out))
            ++taken;
    } catch (const std::bad_alloc&) {
        if (taken == 0) throw;  // what is on loan already is handed over
    }
    return taken;
}

void QueueCore::task_done() const {
    Local& own = local();
    State& all = own.state;
    constexpr const char* kTooMany = "task_done() was called more often than items were got";
    if (own.constant.lease) {
        OwnerId self = this_process();
        Loan* oldest = nullptr;
        OwnerGuard lock(all.ring.get_lock);
        all.repair_loans();
        for (Loan& loan : all.used_loans())
            if (loan.owner.load() == self && (!oldest || loan.ticket < oldest->ticket))
                oldest = &loan;
        if (!oldest) throw std::logic_error(kTooMany);
        oldest->free();
    } else {
        std::uint32_t seen = all.done.load();
        do {
            if (seen == RingCursor::unpack(all.ring.tail.load()).count)
                throw std::logic_error(kTooMany);
        } while (!all.done.replace(seen, seen + 1));
    }
    if (unfinished() == 0) all.all_done.notify_all();
}

std::size_t QueueCore::unfinished() const {
    Local& own = local();
    State& all = own.state;
    if (own.constant.lease) {
        std::size_t waiting = own.ring.size();  // E3: first
        std::size_t lent = count(all.used_loans());
        if (any_robbed(all.used_loans())) {  // or it changes right now
            OwnerGuard lock(all.ring.get_lock);
            all.repair_loans();
        }
        return waiting + lent;
    }
    std::uint32_t done = all.done.load();  // first: it never passes the tail
    std::uint32_t count = RingCursor::unpack(all.ring.tail.load()).count - done;
    if (count > std::uint32_t(INT_MAX)) throw_ring_damaged();
    return count;
}

bool QueueCore::join(const Deadline& deadline) const {
    State& all = local().state;
    for (BoundedSleep sleep(deadline);;) {
        std::uint32_t key = all.all_done.prepare();
        if (unfinished() == 0) return true;
        if (sleep.expired()) return false;
        all.all_done.wait(key, sleep.next());
    }
}

}  // namespace sidestep::detail
