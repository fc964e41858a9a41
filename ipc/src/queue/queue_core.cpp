#include <sidestep/detail/queue_core.hpp>

#include <fmt/format.h>
#include <poll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <optional>

#include "queue/queue_state.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr const char* kQueueName = "Queue";
constexpr std::uint64_t kPlainKind = object_kind("sidestep.Queue.3");
constexpr std::uint64_t kJoinableKind = object_kind("sidestep.JoinableQueue.3");
constexpr std::size_t kLeastQueueBytes = 4 << 10, kMostBytes = std::size_t(32) << 30;
// A drained queue gives its memory back if it was this large.
constexpr std::uint32_t kReclaim = (std::uint32_t(64) << 20) / kUnit;

std::uint64_t kind_of(QueueCore::Kind kind) {
    return kind == QueueCore::Kind::plain ? kPlainKind : kJoinableKind;
}

// The flag that fd() gives out is a timer: readable when its time has come, silent when it has
// none. Others have it too, and may set it, read it, make it blocking at any moment: it is never
// read or written here, so nothing that they do makes a call wait. (An eventfd is written, and that
// with a lock held.)
Fd make_event() {
    Fd event(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!event) sys::throw_call(errno, "timerfd_create(Queue)");
    return sys::above_stdio(std::move(event));
}
void set_event(const Fd& event) noexcept {
    constexpr int kLatenessMs = 1;  // of the timer's interrupt, at most
    itimerspec past = {};
    past.it_value.tv_nsec = 1;
    pollfd entry = {.fd = event.get(), .events = POLLIN, .revents = 0};
    if (::timerfd_settime(event.get(), TFD_TIMER_ABSTIME, &past, nullptr) == 0)
        (void)::poll(&entry, 1, kLatenessMs);
}
void clear_event(const Fd& event) noexcept {
    itimerspec none = {};
    (void)::timerfd_settime(event.get(), 0, &none, nullptr);
}

void check_queue_options(QueueCore::Kind kind, const QueueOptions& options) {
    if (options.max_bytes < kLeastQueueBytes || options.max_bytes > kMostBytes)
        throw std::invalid_argument(fmt::format(
            "a queue of {} bytes: give .max_bytes from 4 KiB to 32 GiB", options.max_bytes));
    if (options.lease && kind != QueueCore::Kind::joinable)
        throw std::invalid_argument(
            "a Queue cannot have .lease: it has no task_done() to end it; use a JoinableQueue");
}

std::size_t loans_size(bool lease) { return lease ? Loan::kPlaces * Loan::kMaxBytes : 0; }

// Of a queue that arrives. Copies: what is checked is what is used.
template <class State>
QueueConstants read_constants(const State& state, std::size_t size) {
    const volatile std::uint32_t &units = state.units, &max_records = state.max_records,
                                 &lease = state.lease;
    QueueConstants constants = {units, max_records, lease != 0};
    std::size_t needed =
        State::kBytesBegin + std::size_t(constants.units) * kUnit + loans_size(constants.lease);
    if (constants.units < kLeastQueueBytes / kUnit || constants.max_records == 0 ||
        constants.max_records > INT_MAX || needed > size)
        throw_damaged(kQueueName);
    return constants;
}

[[noreturn]] void throw_put_after_end(bool produced) {
    throw PutAfterShutDown(
        produced ? "this item did not go into the queue: its last producer has left, and so it has "
                   "ended. Who puts holds a producer() of it until it is through"
                 : "this item did not go into the queue: it was shut down. Where several put, and "
                   "none knows when the others are through, let each hold a producer(): the queue "
                   "ends when the last of them leaves");
}

}  // namespace

void RecordBuffer::grow(std::size_t more) {
    std::size_t used = size();
    std::vector<std::byte> larger(std::max(used + more, 2 * capacity()));
    std::memcpy(larger.data(), begin(), used);
    heap_ = std::move(larger);
    set_window(heap_.data(), used, heap_.size());
}

QueueCore::Local::Local(ObjectRef reference, const QueueConstants& constants,
                        std::shared_ptr<QueueEvent> its_event)
    : ref(std::move(reference)),
      state(ref.as<State>(kQueueName)),
      constant(constants),
      ring(state.ring, state.bytes(), constant.units, constant.max_records),
      event(std::move(its_event)) {}

QueueCore::QueueCore(Kind kind, const QueueOptions& options) {
    check_queue_options(kind, options);
    static_assert(sizeof(State) <= State::kBytesBegin);
    std::size_t fixed = State::kBytesBegin + loans_size(options.lease);
    std::size_t wanted = (options.max_bytes + 4095) / 4096 * 4096;
    std::size_t least = fixed + std::min<std::size_t>(wanted, 1 << 20);
    auto segment =
        MappedSegment::reserve("sidestep-queue", Segment::fitting(fixed + wanted, least, 1), least);
    State* state = new (segment->data()) State;
    state->header = {kind_of(kind), segment->size()};
    QueueConstants constants = {
        static_cast<std::uint32_t>(
            std::min<std::size_t>((segment->size() - fixed) / kUnit, UINT_MAX)),
        options.max_items <= 0
            ? std::uint32_t(INT_MAX)
            : static_cast<std::uint32_t>(std::min<std::int64_t>(options.max_items, INT_MAX)),
        options.lease};
    state->units = constants.units;
    state->max_records = constants.max_records;
    state->lease = constants.lease;
    local_ = std::make_shared<Local>(ObjectRef(std::move(segment), state), constants,
                                     std::make_shared<QueueEvent>(make_event()));
}

QueueCore::Local& QueueCore::local() const {
    if (!local_) throw_no_object(kQueueName);
    return *local_;
}

void QueueCore::check_open(const Local& own) {
    if (own.closed.load(std::memory_order_relaxed))
        throw QueueClosed("this queue is closed here: close() was called in this process");
}

// --- put ---------------------------------------------------------------------------------------

std::size_t QueueCore::largest_item(const Local& own) {
    std::size_t largest = own.ring.largest();
    return own.constant.lease ? std::min(largest, Loan::kMaxBytes) : largest;
}

void QueueCore::throw_too_large(const Local& own, std::uint64_t length) {
    std::size_t largest = largest_item(own);
    bool loan = own.constant.lease && largest == Loan::kMaxBytes;
    throw std::length_error(fmt::format(
        "an item of {} bytes is too large for this queue ({} bytes at most{}): {}put large data "
        "in a SharedMemory, which can be an item",
        length, largest, loan ? ", as every queue with .lease" : "",
        loan ? "" : "make the queue with a larger .max_bytes, or "));
}

// Puts what fits; returns behind it.
const std::byte* QueueCore::try_put(Local& own, const std::byte* begin, const std::byte* end,
                                    const Deadline& deadline) {
    State& all = own.state;
    check_open(own);
    if (!take(all.ring.put_lock, deadline)) return begin;
    if (!own.used.load(std::memory_order_relaxed)) own.used.store(true);
    std::uint32_t before = 0, after = 0;
    const std::byte* next = begin;
    {
        Unlocker unlock(all.ring.put_lock);
        std::uint32_t flags = all.flags.load();
        if (flags & State::kShut) throw_put_after_end(flags & State::kProduced);
        // Before the records appear: who is killed between leaves a false alarm, not a silence.
        if ((flags & State::kPolled) && (!all.signalled || all.ring.put_lock.recovered()))
            signal(own);
        before = RingCursor::unpack(all.ring.tail.load(std::memory_order_relaxed)).count;
        next = own.ring.put(begin, end);
        after = RingCursor::unpack(all.ring.tail.load(std::memory_order_relaxed)).count;
    }
    if (after != before) {
        fence_after_unlock();
        all.items.notify_fenced(static_cast<int>(std::min<std::uint32_t>(after - before, INT_MAX)));
    }
    return next;
}

std::size_t QueueCore::put(std::span<const std::byte> records, const Deadline& deadline) const {
    Local& own = local();
    State& all = own.state;
    const std::byte *at = records.data(), *end = at + records.size();
    std::size_t largest = largest_item(own);
    for (const std::byte* record = at; record != end;) {
        std::uint64_t length = 0;
        std::memcpy(&length, record, sizeof length);
        if (length > largest) throw_too_large(own, length);
        record += ByteRing::units_of(length) * kUnit;
    }
    auto progress = [&] { return static_cast<std::size_t>(at - records.data()); };
    at = try_put(own, at, end, deadline);
    if (at == end) return progress();
    BoundedSleep sleep(deadline);
    if (!sleep.expired()) own.spin([&] { return own.ring.size() < own.ring.max_records() / 2; });
    for (bool slept = false;;) {
        std::uint32_t key = all.space.prepare();
        const std::byte* next = try_put(own, at, end, deadline);
        bool moved = next != at;
        at = next;
        if (moved && slept) all.space.notify_one();  // W3: there may be room for others, too
        if (at == end || (!moved && sleep.expired())) return progress();
        if (moved) continue;
        all.space.wait(key, sleep.next());
        slept = true;
    }
}

// --- get ---------------------------------------------------------------------------------------

// By a holder of C: if the queue is long and empty, its pages go back to the system.
void QueueCore::reclaim(Local& own) {
    State& all = own.state;
    if (RingCursor::unpack(all.ring.head.load()).place < kReclaim || own.ring.size() != 0) return;
    if (!all.ring.put_lock.try_lock(false)) return;
    Unlocker unlock(all.ring.put_lock);
    if (own.ring.size() != 0) return;
    std::size_t hot = std::size_t(ByteRing::kHot) * kUnit;
    sys::discard(own.segment_fd().get(), State::kBytesBegin + hot,
                 std::size_t(own.constant.units) * kUnit - hot);
}

// By the holder of P: the flag is readable.
void QueueCore::signal(Local& own) {
    set_event(own.event->fd);
    own.state.signalled = 1;
}

// The flag falls silent, if the queue is empty.
void QueueCore::settle(Local& own) {
    State& all = own.state;
    OwnerGuard lock(all.ring.put_lock);
    // Who died holding P may have left the timer set and the word not.
    bool signalled = all.signalled || all.ring.put_lock.recovered();
    if (!signalled || own.ring.size() > 0 || all.has(State::kShut)) return;
    all.signalled = 0;  // before: a kill between leaves a false alarm
    clear_event(own.event->fd);
}

// False: nothing is there.
bool QueueCore::try_get(Local& own, std::uint32_t limit, RecordBuffer& out, std::uint32_t& taken,
                        const Deadline& deadline) {
    State& all = own.state;
    check_open(own);
    bool shut = all.has(State::kShut);
    if (shut && all.has(State::kDrop))
        throw QueueShutDown("the queue was shut down: get() is over");
    taken = 0;
    bool look = own.constant.lease && time_to_look(own);
    if (look || own.ring.may_have_records()) {
        if (!take(all.ring.get_lock, deadline)) return false;
        Unlocker unlock(all.ring.get_lock);
        if (own.constant.lease) {
            taken = take_on_loan(own, limit, out, look);
        } else if (own.ring.has_records(limit)) {
            constexpr std::size_t kMost = 1 << 20;
            taken = own.ring.copy(limit, kMost, [&](const std::byte* data, std::size_t size) {
                out.write(data, size);
                return out.bytes().data() + out.size() - size;
            });
            own.ring.commit();
        }
        if (taken > 0) reclaim(own);
    }
    if (taken > 0) {
        fence_after_unlock();
        all.space.notify_fenced(1);
    }
    if (all.has(State::kPolled) && own.ring.size() == 0) settle(own);
    if (taken == 0 && !shut && all.has(State::kProduced) && !has_producers(own)) {
        end_without_producers(own);
        shut = all.has(State::kShut);
    }
    if (taken == 0 && shut && own.ring.size() == 0)
        throw QueueShutDown(all.has(State::kProduced)
                                ? "the end of the queue: its last producer has left, and nothing "
                                  "is left in it"
                                : "the queue was shut down, and nothing is left in it");
    return taken > 0;
}

std::uint32_t QueueCore::get(std::uint32_t limit, RecordBuffer& out,
                             const Deadline& deadline) const {
    Local& own = local();
    State& all = own.state;
    std::uint32_t taken = 0;
    if (try_get(own, limit, out, taken, deadline)) return taken;
    BoundedSleep sleep(deadline);
    if (!sleep.expired()) own.spin([&] { return own.ring.size() > 0; });
    for (bool slept = false;;) {
        std::uint32_t key = all.items.prepare();
        if (try_get(own, limit, out, taken, deadline)) {
            // W3, the baton: what is left is for others who sleep.
            if (slept && own.ring.size() > 0) all.items.notify_one();
            return taken;
        }
        if (sleep.expired()) return 0;
        sys::Wake wake = all.items.wait(key, sleep.next());
        slept = true;
        if (wake == sys::Wake::timeout) own.look_for_dead.store(true, std::memory_order_relaxed);
    }
}

// --- the rest ----------------------------------------------------------------------------------

std::size_t QueueCore::size() const {
    Local& own = local();
    check_open(own);
    return own.ring.size();
}

bool QueueCore::empty(bool closed_too) const {
    Local& own = local();
    if (own.used.load(std::memory_order_relaxed) || !closed_too) check_open(own);
    return own.ring.size() == 0;
}

bool QueueCore::closed() const { return local().closed.load(); }

std::size_t QueueCore::max_items() const { return local().constant.max_records; }

void QueueCore::close() const {
    Local& own = local();
    own.closed.store(true);
    own.state.items.notify_all();  // those of this process are to find out
    own.state.space.notify_all();
}

void QueueCore::shut_down(bool drop) const {
    Local& own = local();
    State& all = own.state;
    {
        OwnerGuard lock(all.ring.put_lock);
        signal(own);  // before the flag: see try_put
        all.set(State::kShut | (drop ? State::kDrop : 0));
    }
    all.items.notify_all();
    all.space.notify_all();
}

int QueueCore::fd() const {
    Local& own = local();
    State& all = own.state;
    check_open(own);
    if (own.constant.lease)
        throw std::logic_error(
            "a JoinableQueue with .lease cannot be polled: an item comes back when its process "
            "dies, and no descriptor tells of that. Use get_for(), or a queue without .lease");
    if (all.has(State::kPolled)) return own.event->fd.get();
    {
        OwnerGuard lock(all.ring.put_lock);
        signal(own);  // before the flag: who finds that set does nothing more
        all.set(State::kPolled);
    }
    if (own.ring.size() == 0) settle(own);
    return own.event->fd.get();
}

bool QueueCore::operator==(const QueueCore& other) const {
    return local_ && other.local_ && local_->ref == other.local_->ref;
}

void QueueCore::save(OutputArchive& archive) const {
    Local& own = local();
    own.ref.save(archive, kQueueName);
    save_lasting(archive, own.event->fd.get(), own.event->identity, own.event, kQueueName);
}

void QueueCore::load(InputArchive& archive, Kind kind) {
    ObjectRef ref;
    std::size_t size = ref.load(archive, kind_of(kind), kQueueName, State::kBytesBegin);
    // Each has a segment of its own, whose pages it gives back by their places in the file.
    if (ref.get() != ref.segment()->data()) throw_damaged(kQueueName);
    QueueConstants constants = read_constants(ref.as<State>(kQueueName), size);
    auto event = std::static_pointer_cast<QueueEvent>(load_lasting(
        archive,
        [](int fd) -> std::shared_ptr<void> { return std::make_shared<QueueEvent>(Fd(fd)); },
        kQueueName));
    local_ = std::make_shared<Local>(std::move(ref), constants, std::move(event));
}

}  // namespace sidestep::detail
