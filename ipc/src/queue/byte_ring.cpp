#include "queue/byte_ring.hpp"

#include <algorithm>
#include <new>
#include <stdexcept>

#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr std::size_t kLarge = 1 << 20;

}  // namespace

void throw_ring_damaged() { detail::throw_damaged("Queue"); }

std::uint32_t ByteRing::size() const {
    constexpr int kMostLooks = 1000;  // whatever others do to it
    for (int looks = 1;; ++looks) {
        // The two belong together if the head has not moved between.
        std::uint64_t head = words_.head.load(std::memory_order_acquire);
        std::uint64_t tail = words_.tail.load(std::memory_order_acquire);
        bool together = words_.head.load(std::memory_order_acquire) == head;
        if (!together && looks < kMostLooks) continue;
        std::uint32_t count = RingCursor::unpack(tail).count - RingCursor::unpack(head).count;
        if (count > max_records_ && together) throw_ring_damaged();
        return std::min(count, max_records_);
    }
}

// Where the next record goes, and how much room there is in one piece; no units: it does not fit.
ByteRing::Room ByteRing::find_room(std::uint32_t needed, RingCursor head, RingCursor tail) {
    bool empty = head.count == tail.count;
    if (words_.escaped && static_cast<std::int32_t>(head.count - words_.escape_count) >= 0)
        words_.escaped = 0;
    if (!empty && !words_.escaped && tail.place <= head.place) {  // wrapped
        std::uint32_t room = head.place - tail.place;             // one unit stays for the jump
        if (room > needed) return {tail.place, room - 1};
        std::uint32_t mark = words_.wrap_place;
        if (room == 0 || mark >= units_) return {};
        // What follows it is free; from any other place on, it is not.
        if (mark < head.place || (length_at(mark) & (kJump | kLengthMask)) != kJump)
            throw_ring_damaged();
        std::uint32_t beyond = mark + 1;
        return {beyond, units_ - beyond >= needed ? units_ - beyond : 0};
    }
    std::uint32_t at_end = units_ - tail.place, at_start = words_.escaped ? 0 : head.place;
    bool early = tail.place >= kHot && at_start >= needed && at_start >= kHot / 2;
    if (at_end >= needed && !early) return {tail.place, at_end};
    return {0, at_start >= needed ? at_start : 0};
}

// The consumer that comes to `from`, before record `count`, goes on at `to`.
void ByteRing::jump(std::uint32_t from, std::uint32_t to, std::uint32_t count) {
    if (from < units_) {
        std::uint64_t mark = head_word(to, count - 1, true);
        std::memcpy(at(from), &mark, sizeof mark);
    }
    if (to == 0) {
        words_.wrap_place = from;
    } else {
        words_.escape_count = count;
        words_.escaped = 1;
    }
}

// Q1: ours. As the last put() left it, or found it, if it was killed; else Q4.
RingCursor ByteRing::own_tail() const {
    std::uint64_t word = words_.tail.load(std::memory_order_relaxed);
    if (word != words_.tail_after.load(std::memory_order_relaxed) &&
        word != words_.tail_before.load(std::memory_order_relaxed))
        throw_ring_damaged();
    return checked(word);
}

void ByteRing::look_at_head() {
    words_.seen_head = words_.head.load(std::memory_order_acquire);  // SYNC(room)
    words_.seen_head_check = check_of(words_.seen_head);
}

RingCursor ByteRing::seen_head() {
    if (words_.seen_head_check != check_of(words_.seen_head)) look_at_head();
    return checked(words_.seen_head);
}

const std::byte* ByteRing::put(const std::byte* begin, const std::byte* end) {
    RingCursor tail = own_tail();
    const RingCursor start = tail;
    // Somebody was killed between the jump and the tail's store: there was no escape.
    if (static_cast<std::int32_t>(tail.count - words_.escape_count) < 0) words_.escaped = 0;
    // Past the hot part, only the true head tells that it is time to go back to the start; not each
    // time (Q3).
    bool refreshed = tail.place >= kHot && tail.place - words_.refresh_place >= kRefresh;
    if (refreshed) {
        look_at_head();
        words_.refresh_place = tail.place;
    }
    while (begin != end) {
        RingCursor head = seen_head();
        if (tail.count - head.count > max_records_) throw_ring_damaged();  // Q4
        std::uint32_t free_records = max_records_ - (tail.count - head.count);
        std::uint64_t length;
        std::memcpy(&length, begin, sizeof length);
        Room room = free_records == 0
                        ? Room{0, 0}
                        : find_room(static_cast<std::uint32_t>(units_of(length)), head, tail);
        if (room.units == 0) {
            if (refreshed) break;
            refreshed = true;
            look_at_head();
            continue;
        }
        // As many as fit there.
        const std::byte* next = begin;
        std::uint32_t records = 0;
        while (next != end && records < free_records) {
            std::memcpy(&length, next, sizeof length);
            std::size_t with = static_cast<std::size_t>(next - begin) + units_of(length) * kUnit;
            if (with > room.units * kUnit) break;
            next = begin + with;
            ++records;
        }
        auto size = static_cast<std::size_t>(next - begin);
        // A lack of memory is an error here, not a signal in the middle of the copy.
        if (size >= kLarge && !sys::populate({at(room.place), size})) throw std::bad_alloc();
        if (room.place != tail.place) jump(tail.place, room.place, tail.count + 1);
        std::memcpy(at(room.place), begin, size);
        std::size_t from = 0;
        for (std::uint32_t i = 0; i < records; ++i) {
            std::memcpy(&length, begin + from, sizeof length);
            std::uint64_t word = head_word(length, tail.count + i);
            std::memcpy(at(room.place) + from, &word, sizeof word);
            from += units_of(length) * kUnit;
        }
        tail = {room.place + static_cast<std::uint32_t>(size / kUnit), tail.count + records};
        begin = next;
    }
    if (tail.count != start.count) {
        // In this order, wherever it is killed: see own_tail().
        words_.tail_before.store(start.pack(), std::memory_order_relaxed);
        words_.tail_after.store(tail.pack(), std::memory_order_release);
        words_.tail.store(tail.pack(), std::memory_order_release);  // SYNC(records), Q2
    }
    return begin;
}

bool ByteRing::has_records(std::uint32_t wanted) {
    std::uint32_t head = RingCursor::unpack(words_.head.load(std::memory_order_relaxed)).count;
    std::uint64_t seen = words_.seen_tail.load(std::memory_order_relaxed);
    if (RingCursor::unpack(seen).count - head >= wanted) return true;
    seen = words_.tail.load(std::memory_order_acquire);  // SYNC(records)
    words_.seen_tail.store(seen, std::memory_order_relaxed);
    return RingCursor::unpack(seen).count != head;
}

ByteRing::Item ByteRing::front() {
    next_ = checked(words_.head.load(std::memory_order_relaxed));
    std::uint32_t number = next_.count;
    Record record = step(next_);
    if (record.word != head_word(record.length(), number)) throw_ring_damaged();
    return {at(record.place) + kUnit, record.length()};
}

}  // namespace sidestep
