#include <sidestep/semaphore.hpp>

#include <fmt/format.h>

#include <climits>
#include <span>
#include <stdexcept>

#include "mapped_segment.hpp"
#include "participant.hpp"
#include "wait_word.hpp"

namespace sidestep::detail {
namespace {

constexpr unsigned kMaxOwned = 1 << 16;

// S1 Each owned permit is a word: 0, or who holds it. It is taken, given and taken from the dead by
//    CAS: a permit is always exactly one of free and held.
// S2 Permits beyond those, and all of a plain semaphore, are a counter: each operation is one CAS.
// S3 value = free words + counter.
struct SemaphoreState {
    ObjectHeader header;
    std::uint32_t owned = 0;  // constant: how many words follow
    std::uint32_t limit = 0;  // constant: of the value; 0: none
    WaitWord released;
    std::atomic<std::uint32_t> counter{0};

    std::span<std::atomic<OwnerId>> words() {
        return {reinterpret_cast<std::atomic<OwnerId>*>(this + 1), owned};
    }

    bool take();
    bool give();
    bool give_own();
    bool return_from_dead();
    bool try_acquire() { return take() || (return_from_dead() && take()); }
};
static_assert(sizeof(SemaphoreState) % sizeof(OwnerId) == 0);

constexpr const char* kName = "Semaphore";
constexpr std::uint64_t kKind = object_kind("sidestep.Semaphore.1");

// Which permit this thread took last: where to look for one to give back.
thread_local std::size_t last_taken = 0;

bool SemaphoreState::take() {
    OwnerId self = this_process();
    std::span<std::atomic<OwnerId>> all = words();
    std::size_t start = owned > 0 ? last_taken % owned : 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
        std::size_t at = start + i < all.size() ? start + i : start + i - all.size();
        OwnerId free = 0;
        if (all[at].load(std::memory_order_relaxed) == 0 &&
            all[at].compare_exchange_strong(free, self)) {
            last_taken = at;
            return true;
        }
    }
    std::uint32_t seen = counter.load();
    while (seen > 0)
        if (counter.compare_exchange_weak(seen, seen - 1)) return true;
    return false;
}

bool SemaphoreState::give_own() {
    OwnerId self = this_process();
    std::span<std::atomic<OwnerId>> all = words();
    std::size_t start = owned > 0 ? last_taken % owned : 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
        std::size_t at = start + i < all.size() ? start + i : start + i - all.size();
        OwnerId mine = self;
        if (all[at].load(std::memory_order_relaxed) == self &&
            all[at].compare_exchange_strong(mine, 0))
            return true;
    }
    return false;
}

// False: that would be one too many.
bool SemaphoreState::give() {
    if (give_own()) return true;
    return_from_dead();  // theirs are not handed over
    for (std::atomic<OwnerId>& word : words())
        for (OwnerId seen = word.load(); seen != 0;)
            if (word.compare_exchange_weak(seen, 0)) return true;
    if (owned > 0 && limit > 0) return false;
    std::uint32_t most = limit > 0 ? limit : std::uint32_t(INT_MAX);
    std::uint32_t seen = counter.load();
    while (seen < most)
        if (counter.compare_exchange_weak(seen, seen + 1)) return true;
    return false;
}

bool SemaphoreState::return_from_dead() {
    bool found = false;
    OwnerId living = this_process();
    for (std::atomic<OwnerId>& word : words()) {
        OwnerId seen = word.load(std::memory_order_relaxed);
        if (seen == 0 || seen == living) continue;
        if (is_alive(seen))
            living = seen;  // a process often holds several in a row
        else if (word.compare_exchange_strong(seen, 0))
            found = true;
    }
    if (found) released.notify_all();
    return found;
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
    unsigned owned = options.returned_on_death ? permits : 0;
    ref_ = make_object<SemaphoreState>(kKind, kName, owned * sizeof(OwnerId));
    auto& state = ref_.as<SemaphoreState>(kName);
    state.owned = owned;
    state.limit = bounded ? permits : 0;
    state.counter.store(permits - owned);
}

bool SemaphoreBase::try_acquire() { return ref_.as<SemaphoreState>(kName).try_acquire(); }

bool SemaphoreBase::acquire_until(const Deadline& deadline) {
    auto& state = ref_.as<SemaphoreState>(kName);
    if (state.take()) return true;
    BoundedSleep sleep(deadline);
    for (bool slept = false;;) {
        std::uint32_t key = state.released.prepare();
        if (slept ? state.take() : state.try_acquire()) {
            // W3, the baton: there may be more permits, and others asleep.
            if (slept) state.released.notify_one();
            return true;
        }
        if (sleep.expired()) return false;
        sys::Wake wake = state.released.wait(key, sleep.next());
        slept = true;
        if (wake == sys::Wake::timeout) state.return_from_dead();
    }
}

void SemaphoreBase::release(unsigned count) {
    auto& state = ref_.as<SemaphoreState>(kName);
    for (unsigned i = 0; i < count; ++i) {
        if (!state.give())
            throw std::logic_error(fmt::format(
                "release of a semaphore of which no permit is out: it would hold more than {}",
                state.limit > 0 ? state.limit : INT_MAX));
        state.released.notify_one();
    }
}

unsigned SemaphoreBase::value() const {
    auto& state = ref_.as<SemaphoreState>(kName);
    state.return_from_dead();
    unsigned free = 0;
    for (const std::atomic<OwnerId>& word : state.words()) free += word.load() == 0;
    return free + state.counter.load();
}

void SemaphoreBase::save(OutputArchive& archive) const { ref_.save(archive, kName); }
void SemaphoreBase::load(InputArchive& archive) { ref_.load(archive, kKind, kName); }

}  // namespace sidestep::detail
