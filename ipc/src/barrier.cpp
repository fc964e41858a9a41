#include <sidestep/barrier.hpp>

#include <fmt/format.h>

#include <climits>
#include <span>

#include "error.hpp"
#include "mapped_segment.hpp"
#include "owner_lock.hpp"
#include "wait_word.hpp"

namespace sidestep {
namespace {

constexpr unsigned kMaxParties = 4096;
constexpr const char* kName = "Barrier";
constexpr std::uint64_t kKind = detail::object_kind("sidestep.Barrier.1");

// A party: a thread that came in `round`. Guarded by the barrier's lock; taken by the store of
// `owner`, its last.
struct Party {
    OwnerId owner = 0;
    std::uint64_t thread = 0;
    std::uint32_t round = 0;
    std::uint32_t reserved = 0;
};

}  // namespace

// B1 Everything is guarded by `lock`, except that who waits reads (and sleeps on) `word` without
// it. B2 A round ends by one store to `word`: its number, and whether it and the 31 before it
// failed.
//    Who waits in round r goes on when the number is not r any more, and reads the outcome there.
// B3 Arrived are the parties of the current round; known are those of the round before, too. If one
//    of them is dead, the round fails. So does it if the lock's holder died.
struct Barrier::State {
    ObjectHeader header;
    OwnerLock lock;
    std::atomic<std::uint64_t> word{0};  // low half: the round; high half: bit i: round-1-i failed
    std::uint32_t broken = 0;
    std::uint32_t parties = 0;     // constant
    std::int64_t timeout_ns = -1;  // constant

    std::span<Party> table() { return {reinterpret_cast<Party*>(this + 1), 2 * parties}; }
    std::uint32_t round() const { return static_cast<std::uint32_t>(word.load()); }
    const std::atomic<std::uint32_t>& futex() const { return sys::low_half(word); }

    unsigned arrived();
    void arrive();
    void end_round(bool failed);
    void break_round();
    void drop_parties();
    void leave(OwnerId process);
    bool somebody_died();
};

namespace {

// Holds the barrier's lock. Whoever died holding it was, or may have been, a party.
template <class State>
class Locked {
  public:
    explicit Locked(State& state) : state_(state) {
        state_.lock.lock();
        if (state_.lock.recovered()) state_.break_round();
    }
    ~Locked() { state_.lock.unlock(); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;

  private:
    State& state_;
};

bool has_failed(std::uint64_t word, std::uint32_t round) {
    std::uint32_t ago = static_cast<std::uint32_t>(word) - round - 1;
    return ago < 32 && (word >> 32 >> ago & 1);
}

[[noreturn]] void throw_broken(const char* why) {
    throw BrokenBarrierError(
        fmt::format("the barrier is broken: {}; reset() makes it usable again", why));
}

}  // namespace

unsigned Barrier::State::arrived() {
    unsigned count = 0;
    for (const Party& party : table()) count += party.owner != 0 && party.round == round();
    return count;
}

void Barrier::State::arrive() {
    OwnerId process = this_process();
    std::uint64_t thread = this_thread();
    Party* place = nullptr;
    for (Party& party : table()) {
        if (party.owner == process && party.thread == thread) {
            place = &party;
            break;
        }
        bool stale = party.owner == 0 || round() - party.round >= 2;
        if (stale && !place) place = &party;
    }
    SIDESTEP_ASSERT(place != nullptr);  // B3: known and arrived are fewer than twice the parties
    place->owner = 0;
    std::atomic_signal_fence(std::memory_order_seq_cst);  // a kill between leaves no party
    place->thread = thread;
    place->round = round();
    std::atomic_signal_fence(std::memory_order_seq_cst);
    place->owner = process;
}

void Barrier::State::end_round(bool failed) {
    std::uint64_t seen = word.load();
    std::uint64_t history = seen >> 32 << 1 | std::uint64_t(failed);
    word.store(history << 32 | (round() + 1));
    sys::futex_wake(futex(), INT_MAX);
}

void Barrier::State::break_round() {
    broken = 1;
    end_round(true);
    drop_parties();
}

void Barrier::State::drop_parties() {
    for (Party& party : table()) party.owner = 0;
}

void Barrier::State::leave(OwnerId process) {
    for (Party& party : table())
        if (party.owner == process && party.round != round()) party.owner = 0;
}

bool Barrier::State::somebody_died() {
    OwnerId living = this_process();
    for (const Party& party : table()) {
        bool known = party.owner != 0 && round() - party.round < 2;
        if (!known || party.owner == living) continue;
        if (!is_alive(party.owner)) return true;
        living = party.owner;
    }
    return false;
}

Barrier::Barrier(unsigned parties, std::shared_ptr<detail::BarrierAction> action,
                 BarrierOptions options)
    : action_(std::move(action)) {
    if (parties == 0 || parties > kMaxParties)
        throw std::invalid_argument(
            fmt::format("a barrier of {} parties: give 1 to {}", parties, kMaxParties));
    ref_ = make_object<State>(kKind, kName, 2 * parties * sizeof(Party));
    State& all = state();
    all.parties = parties;
    if (options.timeout) all.timeout_ns = std::max<std::int64_t>(options.timeout->count(), 0);
    for (Party& party : all.table()) party = {};
    leave_at_end();
}

void Barrier::leave_at_end() {
    leaver_ = std::shared_ptr<void>(nullptr, [ref = ref_](void*) {
        State& left = ref.as<State>(kName);
        Locked lock(left);
        left.leave(this_process());
    });
}

Barrier::State& Barrier::state() const { return ref_.as<State>(kName); }

unsigned Barrier::wait() {
    std::int64_t timeout = state().timeout_ns;
    if (timeout < 0) return wait_until_deadline({});
    return wait_until_deadline(detail::deadline_after(std::chrono::nanoseconds(timeout)));
}

unsigned Barrier::wait_until_deadline(const detail::Deadline& deadline) {
    State& all = state();
    unsigned index = all.parties;
    std::uint32_t round = 0;
    auto try_arrive = [&] {
        Locked lock(all);
        if (all.broken) throw_broken("a party died, timed out or gave up");
        round = all.round();
        index = all.arrived();
        if (index < all.parties) all.arrive();
    };
    BoundedSleep sleep(deadline);
    for (try_arrive(); index + 1 != all.parties;) {
        sys::Wake wake = sys::futex_wait(all.futex(), round, sleep.next());
        std::uint64_t word = all.word.load();
        if (static_cast<std::uint32_t>(word) != round) {
            if (index == all.parties) {  // the round was full: its action ran
                try_arrive();
                continue;
            }
            if (has_failed(word, round)) throw_broken("a party died, timed out or gave up");
            return index;
        }
        if (wake != sys::Wake::timeout) continue;
        Locked lock(all);
        bool ours = all.round() == round;
        if (ours && (sleep.expired() || all.somebody_died())) all.break_round();
    }
    return complete(all, index, round);
}

// By the last to arrive: the others sleep until the round ends, or until they find us dead.
unsigned Barrier::complete(State& all, unsigned index, std::uint32_t round) {
    try {
        if (action_) action_->run();
    } catch (...) {
        Locked lock(all);
        if (all.round() == round) all.break_round();
        throw;
    }
    Locked lock(all);
    if (all.round() == round)
        all.end_round(false);
    else if (has_failed(all.word.load(), round))
        throw_broken("a party died, timed out or gave up");
    return index;
}

void Barrier::reset() {
    State& all = state();
    Locked lock(all);
    if (all.arrived() > 0) all.end_round(true);
    all.drop_parties();
    all.broken = 0;
}

void Barrier::abort() {
    State& all = state();
    Locked lock(all);
    all.break_round();
}

void Barrier::leave() {
    State& all = state();
    Locked lock(all);
    all.leave(this_process());
}

unsigned Barrier::parties() const { return state().parties; }

unsigned Barrier::n_waiting() const {
    State& all = state();
    Locked lock(all);
    return all.broken ? 0 : all.arrived();
}

bool Barrier::broken() const {
    State& all = state();
    Locked lock(all);
    return all.broken != 0;
}

void Barrier::save(OutputArchive& archive) const {
    ref_.save(archive, kName);
    archive(action_ != nullptr);
    if (action_) action_->save(archive);
}

void Barrier::load(InputArchive& archive) {
    ref_.load(archive, kKind, kName);
    leave_at_end();
    bool has_action = false;
    archive(has_action);
    if (!has_action) return;
    detail::TaskId id;
    archive(id.where, id.signature);
    const detail::TaskEntry* entry = detail::find_entry(id);
    if (!entry)
        throw SerializationError(
            "cannot receive a Barrier: its action is not in this program (the two sides must be "
            "the same program)");
    detail::HeapBuffer nothing;
    detail::ActionReceiver receiver(nothing);
    entry->run(archive, receiver);
    action_ = std::move(receiver.action);
}

namespace detail {

void save_action_id(OutputArchive& archive, const TaskId& id) { archive(id.where, id.signature); }

}  // namespace detail
}  // namespace sidestep
