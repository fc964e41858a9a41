#include <sidestep/event.hpp>

#include <climits>

#include "memory/mapped_segment.hpp"
#include "sync/wait_word.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr std::uint32_t kSleepers = 1, kSet = 2, kRound = 4;

struct EventState {
    ObjectHeader header;
    // Bit 0: somebody may sleep; bit 1: the flag; the rest counts set() calls, so that a waiter
    // sees that there was one although the flag has been cleared since.
    std::atomic<std::uint32_t> word{0};
};

constexpr const char* kEventName = "Event";
constexpr std::uint64_t kEventKind = detail::object_kind("sidestep.Event.1");

std::atomic<std::uint32_t>& word(const detail::ObjectRef& ref) {
    return ref.as<EventState>(kEventName).word;
}

}  // namespace

Event::Event() : ref_(make_object<EventState>(kEventKind, kEventName)) {}

void Event::set() {
    std::atomic<std::uint32_t>& flag = word(ref_);
    std::uint32_t seen = flag.load();
    do {
        if (seen & kSet) return;
    } while (!flag.compare_exchange_weak(seen, ((seen | kSet) + kRound) & ~kSleepers));
    if (seen & kSleepers) sys::futex_wake(flag, INT_MAX);
}

void Event::clear() { word(ref_).fetch_and(~kSet); }
bool Event::is_set() const { return word(ref_).load(std::memory_order_acquire) & kSet; }

bool Event::wait_until_deadline(const detail::Deadline& deadline) const {
    std::atomic<std::uint32_t>& flag = word(ref_);
    std::uint32_t seen = flag.load(std::memory_order_acquire);
    const std::uint32_t round = seen / kRound;
    BoundedSleep sleep(deadline);
    for (;;) {
        if ((seen & kSet) || seen / kRound != round) return true;
        if (!(seen & kSleepers) && !flag.compare_exchange_weak(seen, seen | kSleepers)) continue;
        sys::Wake wake = sys::futex_wait(flag, seen | kSleepers, sleep.next());
        seen = flag.load(std::memory_order_acquire);
        if (wake == sys::Wake::timeout && sleep.expired())
            return (seen & kSet) || seen / kRound != round;
    }
}

void Event::save(OutputArchive& archive) const { ref_.save(archive, kEventName); }
void Event::load(InputArchive& archive) {
    ref_.load(archive, kEventKind, kEventName, sizeof(EventState));
}

std::string to_string(const Event& event) { return event.is_set() ? "Event(set)" : "Event(unset)"; }

}  // namespace sidestep
