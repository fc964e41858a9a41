#include <sidestep/barrier.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <climits>
#include <span>
#include <string>

#include "memory/mapped_segment.hpp"
#include "sync/owner_lock.hpp"
#include "sync/wait_word.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr unsigned kMaxParties = 4096;
// That others go through while one that was let go has not run yet: it is stopped, at the most.
constexpr std::uint32_t kMostRounds = 1u << 24;
constexpr std::uint64_t kAllFailed = ~std::uint64_t(0) << 32;  // of a State's word
constexpr const char* kBarrierName = "Barrier";
constexpr std::uint64_t kBarrierKind = detail::object_kind("sidestep.Barrier.4");

}  // namespace

// A party: a thread that came in `round`. Guarded by the barrier's lock; taken by the store of
// `owner`, its last.
struct BarrierParty {
    OwnerId owner = 0;
    std::uint64_t thread = 0;
    std::uint32_t round = 0;
    std::uint32_t reserved = 0;
};

// What made a round fail.
enum class Cause : std::uint32_t { died, timed_out, threw, aborted, reset, damaged };
struct BarrierFailure {
    std::uint32_t round = 0;
    Cause cause = Cause::died;
    int pid = 0;  // whose death, timeout... it was; 0: unknown
};

// B1 Everything is guarded by `lock`, except that who waits reads (and sleeps on) `word` without
//    it.
// B2 A round ends by one store to `word`: its number, and whether it and the 31 before it failed.
//    Who waits in round r goes on when the number is not r any more, and reads the outcome there.
// B3 Arrived are the parties of the current round; known are those of the round before, too. If one
//    of them is dead, the round fails. So does it if the lock's holder died.
// B4 What is constant is read once, when the handle is made or arrives. What no call can have made
//    of the rest breaks the barrier: more parties than there can be, a party that waits and is not
//    in the table, a round that is far from the one before.
// B5 Every value of `word` lets parties through, so it is not believed alone: whoever ends a round
//    stores what vouches for the new word first. Whoever sees that the two do not agree looks again
//    with the lock held; if they do not agree then, somebody wrote over one of them.
struct Barrier::State {
    ObjectHeader header;
    OwnerLock lock;
    std::atomic<std::uint64_t> word{0};  // low half: the round; high half: bit i: round-1-i failed
    std::uint32_t broken = 0;
    std::uint32_t parties = 0;     // constant
    std::int64_t timeout_ns = -1;  // constant
    BarrierFailure failure;        // the last; of a broken barrier: what broke it
    std::atomic<std::uint64_t> word_check{check_of(0)};  // of `word`

    static constexpr std::uint64_t check_of(std::uint64_t of_word) {
        return (of_word ^ 0x9e3779b97f4a7c15u) * 0xd6e8feb86659fd93u;
    }
};

// The barrier as this process knows it.
struct Barrier::View {
    View(const detail::ObjectRef& ref, std::uint32_t its_parties)
        : View(ref.as<State>(kBarrierName), its_parties) {}
    View(State& state, std::uint32_t its_parties)
        : lock(state.lock),
          word(state.word),
          word_check(state.word_check),
          broken(state.broken),
          failure(state.failure),
          parties(its_parties),
          table(reinterpret_cast<BarrierParty*>(&state + 1), 2 * std::size_t(its_parties)) {}

    OwnerLock& lock;
    std::atomic<std::uint64_t>& word;
    std::atomic<std::uint64_t>& word_check;
    std::uint32_t& broken;
    BarrierFailure& failure;
    const std::uint32_t parties;
    const std::span<BarrierParty> table;

    std::uint32_t round() const { return static_cast<std::uint32_t>(word.load()); }
    const std::atomic<std::uint32_t>& futex() const { return sys::low_half(word); }

    // Without the lock, false: perhaps (B5).
    bool agrees(std::uint64_t seen) const { return word_check.load() == State::check_of(seen); }
    void require_agreement();
    unsigned arrived();
    bool arrive();
    bool has_arrived() const;
    void end_round(bool failed);
    void break_round(Cause cause, int pid);
    void break_damaged();
    void drop_parties();
    void leave(OwnerId process);
    OwnerId find_dead();
    [[noreturn]] void throw_failure(std::uint32_t of_round);
    [[noreturn]] void throw_damaged();
};

namespace {

// Holds the barrier's lock. Whoever died holding it was, or may have been, a party.
template <class View>
class Locked {
  public:
    explicit Locked(View& view) : view_(view) {
        view_.lock.lock();
        if (view_.lock.recovered()) view_.break_round(Cause::died, 0);
    }
    ~Locked() { view_.lock.unlock(); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;

  private:
    View& view_;
};

bool has_failed(std::uint64_t word, std::uint32_t round) {
    std::uint32_t ago = static_cast<std::uint32_t>(word) - round - 1;
    return ago < 32 && (word >> 32 >> ago & 1);
}

std::string describe(const BarrierFailure& failure) {
    std::string who = failure.pid != 0 ? fmt::format("process {}", failure.pid) : "a party";
    switch (failure.cause) {
        case Cause::died:
            return who + " died";
        case Cause::timed_out:
            return who + " timed out before all parties had come";
        case Cause::threw:
            return "the action threw in " + who;
        case Cause::aborted:
            return who + " called abort()";
        case Cause::reset:
            return who + " called reset()";
        case Cause::damaged:
            return "a process that shares it wrote over its memory";
    }
    return who + " gave up";
}

}  // namespace

// Requires: the lock is held. A later failure may have taken the place of this round's.
void Barrier::View::throw_failure(std::uint32_t of_round) {
    if (failure.round != of_round)
        throw BrokenBarrierError("the barrier was broken while this party waited");
    if (failure.cause == Cause::reset)
        throw BrokenBarrierError(
            fmt::format("sent away from the barrier: {}; wait() again", describe(failure)));
    throw BrokenBarrierError(
        fmt::format("the barrier is broken: {}; reset() makes it usable again", describe(failure)));
}

unsigned Barrier::View::arrived() {
    unsigned count = 0;
    for (const BarrierParty& party : table) count += party.owner != 0 && party.round == round();
    return count;
}

// False: there is no place, which cannot be.
bool Barrier::View::arrive() {
    OwnerId process = this_process();
    std::uint64_t thread = this_thread();
    BarrierParty* place = nullptr;
    for (BarrierParty& party : table) {
        if (party.owner == process && party.thread == thread) {
            place = &party;
            break;
        }
        bool stale = party.owner == 0 || round() - party.round >= 2;
        if (stale && !place) place = &party;
    }
    if (!place) return false;  // B3: known and arrived are fewer than twice the parties
    place->owner = 0;
    std::atomic_signal_fence(std::memory_order_seq_cst);  // a kill between leaves no party
    place->thread = thread;
    place->round = round();
    std::atomic_signal_fence(std::memory_order_seq_cst);
    place->owner = process;
    return true;
}

bool Barrier::View::has_arrived() const {
    for (const BarrierParty& party : table)
        if (party.owner == this_process() && party.thread == this_thread())
            return party.round == round();
    return false;
}

// Requires: the lock is held.
void Barrier::View::break_damaged() {
    word.store(word.load() | kAllFailed);  // whichever round is another party's
    break_round(Cause::damaged, 0);
}

// Requires: the lock is held.
void Barrier::View::throw_damaged() {
    break_damaged();
    throw_failure(failure.round);
}

// Requires: the lock is held.
void Barrier::View::require_agreement() {
    if (!agrees(word.load())) throw_damaged();
}

void Barrier::View::end_round(bool failed) {
    std::uint64_t seen = word.load();
    std::uint64_t history = seen >> 32 << 1 | std::uint64_t(failed);
    std::uint64_t next = history << 32 | (round() + 1);
    word_check.store(State::check_of(next));  // B5: first
    word.store(next);
    sys::futex_wake(futex(), INT_MAX);
}

// Every step even if it is broken: who broke it may have been killed at any of them.
void Barrier::View::break_round(Cause cause, int pid) {
    if (!broken) failure = {round(), cause, pid};  // the first cause stays
    broken = 1;
    end_round(true);
    drop_parties();
}

void Barrier::View::drop_parties() {
    for (BarrierParty& party : table) party.owner = 0;
}

void Barrier::View::leave(OwnerId process) {
    for (BarrierParty& party : table)
        if (party.owner == process && party.round != round()) party.owner = 0;
}

// A party of this round or of the one before; 0: all live.
OwnerId Barrier::View::find_dead() {
    OwnerId living = this_process();
    for (const BarrierParty& party : table) {
        bool known = party.owner != 0 && round() - party.round < 2;
        if (!known || party.owner == living) continue;
        if (!lock.is_alive(party.owner)) return party.owner;
        living = party.owner;
    }
    return 0;
}

Barrier::Barrier(unsigned parties, std::shared_ptr<detail::SentCall> action, BarrierOptions options)
    : action_(std::move(action)) {
    if (parties == 0 || parties > kMaxParties)
        throw std::invalid_argument(
            fmt::format("a barrier of {} parties: give 1 to {}", parties, kMaxParties));
    ref_ = make_object<State>(kBarrierKind, kBarrierName, 2 * parties * sizeof(BarrierParty));
    parties_ = parties;
    if (options.timeout) timeout_ns_ = std::max<std::int64_t>(options.timeout->count(), 0);
    State& state = ref_.as<State>(kBarrierName);
    state.parties = parties;
    state.timeout_ns = timeout_ns_;
    for (BarrierParty& party : View(state, parties).table) party = {};
    leave_at_end();
}

void Barrier::leave_at_end() {
    leaver_ = std::shared_ptr<void>(nullptr, [ref = ref_, parties = parties_](void*) {
        View left(ref, parties);
        Locked lock(left);
        left.leave(this_process());
    });
}

unsigned Barrier::wait() {
    if (timeout_ns_ < 0) return wait_until_deadline({});
    return wait_until_deadline(detail::deadline_after(std::chrono::nanoseconds(timeout_ns_)));
}

unsigned Barrier::wait_until_deadline(const detail::Deadline& deadline) {
    View all(ref_, parties_);
    unsigned index = all.parties;
    std::uint32_t round = 0;
    auto try_arrive = [&] {
        Locked lock(all);
        if (all.broken) all.throw_failure(all.failure.round);
        all.require_agreement();
        round = all.round();
        index = all.arrived();
        if (index > all.parties || (index < all.parties && !all.arrive())) all.throw_damaged();
    };
    BoundedSleep sleep(deadline);
    for (try_arrive(); index + 1 != all.parties;) {
        sys::Wake wake = sys::futex_wait(all.futex(), round, sleep.next());
        std::uint64_t word = all.word.load();
        if (!all.agrees(word)) {
            Locked lock(all);
            all.require_agreement();
            word = all.word.load();
        }
        if (std::uint32_t rounds = static_cast<std::uint32_t>(word) - round; rounds != 0) {
            if (rounds > kMostRounds) {
                Locked lock(all);
                all.throw_damaged();
            }
            if (index == all.parties) {  // the round was full: its action ran
                try_arrive();
                sleep = BoundedSleep(deadline);
                continue;
            }
            if (!has_failed(word, round)) return index;
            Locked lock(all);
            all.throw_failure(round);
        }
        if (wake != sys::Wake::timeout) continue;
        Locked lock(all);
        if (all.round() != round) continue;
        // Who breaks it ends the round in the same step: broken in our round it cannot be.
        if (all.broken || all.arrived() > all.parties ||
            (index < all.parties && !all.has_arrived()))
            all.throw_damaged();
        if (OwnerId dead = all.find_dead())
            all.break_round(Cause::died, pid_of(dead));
        else if (sleep.expired() && all.arrived() < all.parties)
            all.break_round(Cause::timed_out, ::getpid());
        else if (sleep.expired())  // all have come, and the action runs: time counts no more
            sleep = BoundedSleep(sys::Deadline());
    }
    return complete(all, index, round);
}

// By the last to arrive: the others sleep until the round ends, or until they find us dead.
unsigned Barrier::complete(View& all, unsigned index, std::uint32_t round) {
    try {
        if (action_) action_->call();
    } catch (...) {
        Locked lock(all);
        if (all.round() == round) all.break_round(Cause::threw, ::getpid());
        throw;
    }
    Locked lock(all);
    if (!all.broken) all.require_agreement();
    if (all.round() == round)
        all.end_round(false);
    else if (has_failed(all.word.load(), round))
        all.throw_failure(round);
    return index;
}

void Barrier::reset() {
    View all(ref_, parties_);
    Locked lock(all);
    if (!all.agrees(all.word.load())) all.break_damaged();  // those who wait do not go through
    if (all.arrived() > 0) {
        all.failure = {all.round(), Cause::reset, ::getpid()};
        all.end_round(true);
    }
    all.drop_parties();
    all.broken = 0;
}

void Barrier::abort() {
    View all(ref_, parties_);
    Locked lock(all);
    all.break_round(Cause::aborted, ::getpid());
}

void Barrier::leave() {
    View all(ref_, parties_);
    Locked lock(all);
    all.leave(this_process());
}

unsigned Barrier::parties() const {
    (void)ref_.as<State>(kBarrierName);  // not a handle that was moved from
    return parties_;
}

unsigned Barrier::n_waiting() const {
    View all(ref_, parties_);
    Locked lock(all);
    return all.broken ? 0 : all.arrived();
}

bool Barrier::broken() const {
    View all(ref_, parties_);
    Locked lock(all);
    return all.broken != 0;
}

void Barrier::save(OutputArchive& archive) const {
    ref_.save(archive, kBarrierName);
    archive(action_ != nullptr);
    if (!action_) return;
    archive(action_->id().where, action_->id().signature);
    action_->save(archive);
}

void Barrier::load(InputArchive& archive) {
    detail::ObjectRef ref;
    std::size_t size = ref.load(archive, kBarrierKind, kBarrierName, sizeof(State));
    // Copies: what is checked is what is used.
    const volatile State& state = ref.as<State>(kBarrierName);
    std::uint32_t parties = state.parties;
    std::int64_t timeout_ns = state.timeout_ns;
    if (parties == 0 || parties > kMaxParties ||
        2 * parties * sizeof(BarrierParty) > size - sizeof(State))
        detail::throw_damaged(kBarrierName);
    ref_ = std::move(ref);
    parties_ = parties;
    timeout_ns_ = timeout_ns;
    leave_at_end();
    bool has_action = false;
    archive(has_action);
    if (!has_action) return;
    // An action is code by name, with arguments: whoever sends one has it run here.
    if (!archive.functions_allowed())
        throw SerializationError(
            "cannot receive a Barrier with an action in a message or a result: whoever sent it "
            "could name any code; pass it as an argument of a task or a Process");
    detail::TaskId id;
    archive(id.where, id.signature);
    action_ = detail::load_sent_call(id, "the Barrier's action", archive);
}

}  // namespace sidestep
