// The ring of a queue: records in, records out, between any number of processes.
//
//     put: lock(P); if there is room: copy records behind the tail; tail.store(); unlock(P)
//     get: lock(C); if head != tail:  copy records out;             head.store(); unlock(C)
//
// Q1 The tail has one writer at a time, the holder of P; the head likewise, the holder of C. Both
//    locks are owner-tagged: the dead lose them.
// Q2 Each of the two is one word, {place, count of records so far}, and its one store is the whole
//    effect of an operation, a batch included. Killed before it: nothing has happened. After it: it
//    is done. There is nothing to repair, and the number of records is exact.
// Q3 What `seen_head` says is at or behind the head, `seen_tail` at or behind the tail: less room,
//    or fewer records, than there are. They spare each side the other's cache line: a look at it
//    costs the other side more than all the rest of an operation.
//
// Q4 The places and numbers that others may have written over are checked before they are used, and
//    so is the word in front of a record: it has a check that depends on the record's number, so
//    that nothing else that lies in the ring is taken for that record. A tail that the last put()
//    neither found nor was to leave would have the next one put records over others; so would a
//    wrong `seen_head`, which has a check, and without it is no hint. What is not seen: a change to
//    a record's bytes, which would cost more than the copy, and a head or tail that a call could
//    have left there (items are lost then).
//
// Room: a record is a word with its length, and its bytes up to a multiple of 8; it never wraps.
// Records wrap to the start where the next does not fit, and also early, once they have passed
// kHot bytes and the consumer is far enough: the ring is as large as it might ever need to be, but
// only what is used stays in memory and in the caches. kJump and a place instead of a length say:
// go on there.
//
// The algorithm is given its memory. Sizes are in units of 8 bytes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <sidestep/detail/queue_core.hpp>

#include "sync/event_count.hpp"
#include "sync/owner_lock.hpp"

namespace sidestep::inline v0 {

inline constexpr std::size_t kUnit = 8;

[[noreturn]] void throw_ring_damaged();

// A place in the ring, and how many records lie before it (modulo 2^32, as is the place's lap).
struct RingCursor {
    std::uint32_t place = 0;
    std::uint32_t count = 0;

    static RingCursor unpack(std::uint64_t word) {
        return {static_cast<std::uint32_t>(word), static_cast<std::uint32_t>(word >> 32)};
    }
    std::uint64_t pack() const { return std::uint64_t(count) << 32 | place; }
};

// What lies in shared memory, before the bytes.
struct RingWords {
    alignas(kCacheLine) OwnerLock put_lock;  // P
    std::atomic<std::uint64_t> tail{0};
    // Guarded by P. Who is killed before the tail's store leaves them as put() finds out.
    std::atomic<std::uint64_t> tail_before{0}, tail_after{0};  // of the last put(), in this order
    std::uint64_t seen_head = 0;
    std::uint32_t wrap_place = 0;  // where the last wrap jumped off; meaningful while wrapped
    std::uint32_t escape_count =
        0;  // if escaped: no wrap until the consumer has passed this record
    std::uint16_t escaped = 0;
    std::uint16_t seen_head_check = 0;  // see check_of()
    std::uint32_t refresh_place = 0;    // where the tail was when put() looked at the head last
    alignas(kCacheLine) OwnerLock get_lock;  // C
    std::atomic<std::uint64_t> head{0};
    std::atomic<std::uint64_t> seen_tail{0};  // written under C; relaxed: others take it for a hint
};

// A view of the ring, in each process.
class ByteRing {
  public:
    // The word in front of a record: bits 0 to 34 the length, 35 to 62 its check, 63: no record,
    // and the length is the place to go on at.
    static constexpr std::uint64_t kJump = std::uint64_t(1) << 63;
    static constexpr std::uint64_t kLengthMask = detail::kRecordLengthMask;
    static std::uint64_t head_word(std::uint64_t length, std::uint32_t number, bool jump = false) {
        std::uint64_t word = length | (jump ? kJump : 0);
        std::uint64_t hash = (word ^ (number + 1) * 0x9e3779b97f4a7c15u) * 0xd6e8feb86659fd93u;
        return word | (hash >> 36 << 35);
    }
    static constexpr std::uint32_t kHot = (256 << 10) / kUnit;
    static constexpr std::uint32_t kRefresh = (4 << 10) / kUnit;

    ByteRing(RingWords& words, std::byte* bytes, std::uint32_t units, std::uint32_t max_records)
        : words_(words), bytes_(bytes), units_(units), max_records_(max_records) {}

    // How many records there are now.
    std::uint32_t size() const;  // throws DamagedError
    // False: there are none. True: there were some.
    bool may_have_records() const {
        std::uint64_t head = words_.head.load(std::memory_order_relaxed);
        std::uint64_t seen = words_.seen_tail.load(std::memory_order_relaxed);
        return RingCursor::unpack(seen).count != RingCursor::unpack(head).count || size() > 0;
    }
    std::uint32_t max_records() const { return max_records_; }
    // The largest record that always finds room in the end.
    std::size_t largest() const { return (units_ / 2 - 1) * kUnit; }
    static std::size_t units_of(std::uint64_t length) { return 1 + (length + kUnit - 1) / kUnit; }

    // --- by the holder of P ---
    // Puts the first of the records [begin, end), as many as fit, in one step; returns behind them.
    // Their lengths are the caller's to vouch for.
    const std::byte* put(const std::byte* begin, const std::byte* end);

    // --- by the holder of C ---
    // Any? Looks at the tail if fewer than `wanted` (at least 1) were seen so far.
    bool has_records(std::uint32_t wanted = 1);
    // Copies up to `limit` records out, but no more than `most` bytes after the first; `out(data,
    // size)` gets them in a few pieces, and returns where it copied each to: what is checked is
    // what is used. Call commit() after.
    template <class Out>
    std::uint32_t copy(std::uint32_t limit, std::size_t most, Out out);
    // The first record, in place.
    struct Item {
        const std::byte* data;
        std::uint64_t length;
    };
    Item front();
    // What was copied, or is in front, is taken.
    void commit() { words_.head.store(next_.pack(), std::memory_order_release); }  // SYNC(room)

    // 0 of 0: as it is at first.
    static std::uint16_t check_of(std::uint64_t cursor) {
        return static_cast<std::uint16_t>(cursor * 0xd6e8feb86659fd93u >> 48);
    }

  private:
    struct Room {
        std::uint32_t place = 0;
        std::uint32_t units = 0;
    };
    RingCursor checked(std::uint64_t word) const {
        RingCursor cursor = RingCursor::unpack(word);
        if (cursor.place > units_) throw_ring_damaged();
        return cursor;
    }
    RingCursor own_tail() const;
    RingCursor seen_head();
    void look_at_head();
    Room find_room(std::uint32_t needed, RingCursor head, RingCursor tail);
    void jump(std::uint32_t from, std::uint32_t to, std::uint32_t count);
    std::byte* at(std::uint32_t place) const { return bytes_ + std::size_t(place) * kUnit; }
    std::uint64_t length_at(std::uint32_t place) const {
        std::uint64_t length;
        std::memcpy(&length, at(place), sizeof length);
        return length;
    }
    // A record: where it is, and the word in front of it, as it was read once.
    struct Record {
        std::uint32_t place;
        std::uint64_t word;
        std::uint64_t length() const { return word & kLengthMask; }
    };
    // Moves a cursor that stands before a record past it. Whether the word is that record's is not
    // checked, but that it leaves the cursor in the ring.
    Record step(RingCursor& cursor) const;
    static void check_records(const std::byte* copy, std::size_t size, std::uint32_t number);

    RingWords& words_;
    std::byte* bytes_;
    std::uint32_t units_;
    std::uint32_t max_records_;
    RingCursor next_;
};

inline ByteRing::Record ByteRing::step(RingCursor& cursor) const {
    std::uint32_t place = cursor.place >= units_ ? 0 : cursor.place;
    std::uint64_t word = length_at(place), length = word & kLengthMask;
    for (int jumps = 0; (word & kJump) && jumps < 2; ++jumps) {
        if (word != head_word(length, cursor.count, true) || length >= units_) throw_ring_damaged();
        place = static_cast<std::uint32_t>(length);
        word = length_at(place);
        length = word & kLengthMask;
    }
    if ((word & kJump) || length > largest() || units_of(length) > units_ - place)
        throw_ring_damaged();
    cursor = {place + static_cast<std::uint32_t>(units_of(length)), cursor.count + 1};
    return {place, word};
}

// Of records that were copied out, in one piece: each has the word of that number.
inline void ByteRing::check_records(const std::byte* copy, std::size_t size, std::uint32_t number) {
    for (std::size_t at = 0; at < size; ++number) {
        std::uint64_t word;
        std::memcpy(&word, copy + at, sizeof word);
        std::uint64_t length = word & kLengthMask;
        std::size_t whole = units_of(length) * kUnit;
        if (word != head_word(length, number) || whole > size - at) throw_ring_damaged();
        at += whole;
    }
}

template <class Out>
std::uint32_t ByteRing::copy(std::uint32_t limit, std::size_t most, Out out) {
    next_ = checked(words_.head.load(std::memory_order_relaxed));  // Q1: ours
    std::uint64_t seen = words_.seen_tail.load(std::memory_order_relaxed);
    std::uint32_t end = RingCursor::unpack(seen).count, taken = 0;
    std::uint32_t run_begin = 0, run_end = 0, run_number = next_.count;
    auto copy_run = [&] {
        std::size_t size = std::size_t(run_end - run_begin) * kUnit;
        if (size > 0) check_records(out(at(run_begin), size), size, run_number);
    };
    std::size_t total = 0;
    while (taken < limit && next_.count != end && (taken == 0 || total < most)) {
        std::uint32_t number = next_.count, place = step(next_).place;
        if (place != run_end || taken == 0) {
            copy_run();
            run_begin = place;
            run_number = number;
        }
        run_end = next_.place;
        total += std::size_t(run_end - place) * kUnit;
        ++taken;
    }
    copy_run();
    return taken;
}

}  // namespace sidestep
