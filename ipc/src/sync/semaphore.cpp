#include <sidestep/semaphore.hpp>

#include <fmt/format.h>

#include <climits>
#include <span>
#include <stdexcept>

#include "memory/mapped_segment.hpp"
#include "memory/participant.hpp"
#include "sync/wait_word.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr unsigned kMaxOwned = 1 << 16;

// S1 Each owned permit is a word: 0, or who holds it. It is taken, given and taken from the dead by
//    CAS: a permit is always exactly one of free and held.
// S2 Permits beyond those, and all of a plain semaphore, are a counter: each operation is one CAS.
// S3 value = free words + counter.
// S4 What is constant is read once, when the handle is made or arrives, and then kept in it. A word
//    that was written over is like a dead holder's; a counter that no call can reach is damage.
struct SemaphoreState {
    ObjectHeader header;
    std::uint32_t owned = 0;  // constant: how many words follow
    std::uint32_t limit = 0;  // constant: of the value; 0: none
    WaitWord released;
    std::atomic<std::uint32_t> counter{0};
    Homes homes;
    std::uint32_t reserved = 0;
};
static_assert(sizeof(SemaphoreState) % sizeof(OwnerId) == 0);

constexpr const char* kSemaphoreName = "Semaphore";
constexpr std::uint64_t kSemaphoreKind = object_kind("sidestep.Semaphore.2");

// Which permit this thread took last: where to look for one to give back.
thread_local std::size_t last_taken = 0;

std::size_t size_of(std::uint32_t owned) {
    return sizeof(SemaphoreState) + owned * sizeof(OwnerId);
}

// A semaphore as this process knows it.
class Permits {
  public:
    Permits(const ObjectRef& ref, std::uint32_t owned, std::uint32_t limit)
        : state_(ref.as<SemaphoreState>(kSemaphoreName)),
          words_(reinterpret_cast<std::atomic<OwnerId>*>(&state_ + 1), owned),
          limit_(limit) {
        state_.homes.enter(this_process());
    }
    WaitWord& released() { return state_.released; }

    bool take();
    bool give();
    bool return_from_dead();
    bool try_acquire() { return take() || (return_from_dead() && take()); }
    unsigned value() const;

  private:
    bool give_own();
    // Of the counter: with the words it makes up the value (S3).
    std::uint32_t most() const {
        return (limit_ > 0 ? limit_ : std::uint32_t(INT_MAX)) -
               static_cast<std::uint32_t>(words_.size());
    }
    std::uint32_t counter() const {
        std::uint32_t seen = state_.counter.load();
        if (seen > most()) throw_damaged(kSemaphoreName);
        return seen;
    }
    SemaphoreState& state_;
    std::span<std::atomic<OwnerId>> words_;
    std::uint32_t limit_;
};

bool Permits::take() {
    OwnerId self = this_process();
    std::size_t start = words_.empty() ? 0 : last_taken % words_.size();
    for (std::size_t i = 0; i < words_.size(); ++i) {
        std::size_t at = start + i < words_.size() ? start + i : start + i - words_.size();
        OwnerId free = 0;
        if (words_[at].load(std::memory_order_relaxed) == 0 &&
            words_[at].compare_exchange_strong(free, self)) {
            last_taken = at;
            return true;
        }
    }
    for (std::uint32_t seen; (seen = counter()) > 0;)
        if (state_.counter.compare_exchange_weak(seen, seen - 1)) return true;
    return false;
}

bool Permits::give_own() {
    OwnerId self = this_process();
    std::size_t start = words_.empty() ? 0 : last_taken % words_.size();
    for (std::size_t i = 0; i < words_.size(); ++i) {
        std::size_t at = start + i < words_.size() ? start + i : start + i - words_.size();
        OwnerId mine = self;
        if (words_[at].load(std::memory_order_relaxed) == self &&
            words_[at].compare_exchange_strong(mine, 0))
            return true;
    }
    return false;
}

// False: that would be one too many.
bool Permits::give() {
    if (give_own()) return true;
    return_from_dead();  // theirs are not handed over
    for (std::atomic<OwnerId>& word : words_)
        for (OwnerId seen = word.load(); seen != 0;)
            if (word.compare_exchange_weak(seen, 0)) return true;
    if (!words_.empty() && limit_ > 0) return false;
    for (std::uint32_t seen; (seen = counter()) < most();)
        if (state_.counter.compare_exchange_weak(seen, seen + 1)) return true;
    return false;
}

bool Permits::return_from_dead() {
    bool found = false;
    OwnerId living = this_process();
    for (std::atomic<OwnerId>& word : words_) {
        OwnerId seen = word.load(std::memory_order_relaxed);
        if (seen == 0 || seen == living) continue;
        if (state_.homes.is_alive(seen))
            living = seen;  // a process often holds several in a row
        else if (word.compare_exchange_strong(seen, 0))
            found = true;
    }
    if (found) released().notify_all();
    return found;
}

unsigned Permits::value() const {
    unsigned free = 0;
    for (const std::atomic<OwnerId>& word : words_) free += word.load() == 0;
    return free + counter();
}

}  // namespace

SemaphoreBase::SemaphoreBase(unsigned permits, bool bounded, SemaphoreOptions options) {
    if (permits > unsigned(INT_MAX) || (bounded && permits == 0))
        throw std::invalid_argument(fmt::format(
            "a semaphore of {} permits: give 1 to {} (a plain Semaphore may start at 0)", permits,
            INT_MAX));
    if (options.returned_on_death && permits > kMaxOwned)
        throw std::invalid_argument(fmt::format(
            "a semaphore of {} permits that return on death ({} at most): use fewer, or "
            ".returned_on_death = false",
            permits, kMaxOwned));
    owned_ = options.returned_on_death ? permits : 0;
    limit_ = bounded ? permits : 0;
    ref_ = make_object<SemaphoreState>(kSemaphoreKind, kSemaphoreName, owned_ * sizeof(OwnerId));
    auto& state = ref_.as<SemaphoreState>(kSemaphoreName);
    state.owned = owned_;
    state.limit = limit_;
    state.counter.store(permits - owned_);
}

bool SemaphoreBase::try_acquire() { return Permits(ref_, owned_, limit_).try_acquire(); }

bool SemaphoreBase::acquire_until(const Deadline& deadline) {
    Permits permits(ref_, owned_, limit_);
    if (permits.take()) return true;
    BoundedSleep sleep(deadline);
    for (bool slept = false;;) {
        std::uint32_t key = permits.released().prepare();
        if (slept ? permits.take() : permits.try_acquire()) {
            // W3, the baton: there may be more permits, and others asleep.
            if (slept) permits.released().notify_one();
            return true;
        }
        if (sleep.expired()) return false;
        sys::Wake wake = permits.released().wait(key, sleep.next());
        slept = true;
        if (wake == sys::Wake::timeout) permits.return_from_dead();
    }
}

void SemaphoreBase::release(unsigned count) {
    Permits permits(ref_, owned_, limit_);
    for (unsigned i = 0; i < count; ++i) {
        if (!permits.give())
            throw std::logic_error(fmt::format(
                "release of a semaphore of which no permit is out: it would hold more than {}",
                limit_ > 0 ? limit_ : INT_MAX));
        permits.released().notify_one();
    }
}

unsigned SemaphoreBase::value() const {
    Permits permits(ref_, owned_, limit_);
    permits.return_from_dead();
    return permits.value();
}

void SemaphoreBase::save(OutputArchive& archive) const { ref_.save(archive, kSemaphoreName); }
void SemaphoreBase::load(InputArchive& archive) {
    ObjectRef ref;
    std::size_t size = ref.load(archive, kSemaphoreKind, kSemaphoreName, sizeof(SemaphoreState));
    SemaphoreState& state = ref.as<SemaphoreState>(kSemaphoreName);
    // Copies: what is checked is what is used.
    const volatile std::uint32_t &shared_owned = state.owned, &shared_limit = state.limit;
    std::uint32_t owned = shared_owned, limit = shared_limit;
    if (owned > kMaxOwned || size_of(owned) > size || limit > std::uint32_t(INT_MAX) ||
        (limit != 0 && owned > limit))
        throw_damaged(kSemaphoreName);
    ref_ = std::move(ref);
    owned_ = owned;
    limit_ = limit;
}

}  // namespace sidestep::detail
