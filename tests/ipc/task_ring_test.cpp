#include "queue/task_ring.hpp"

#include <atomic>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "support.hpp"

namespace task_ring_test {

using sidestep::EventCount;
using sidestep::ReplyKind;
using sidestep::RingHeader;
using sidestep::RingParent;
using sidestep::RingWorker;
using sidestep::SlotState;
using sidestep::SlotSum;
using sidestep::TaskSlot;

namespace {

// A ring in private memory: the algorithm does not care.
class Ring {
  public:
    explicit Ring(std::uint32_t capacity)
        : memory_(new (std::align_val_t(sidestep::kCacheLine))
                      std::byte[RingHeader::bytes_for(capacity)]()),
          parent((new (memory_.get()) RingHeader, header()), capacity),
          worker(header(), capacity) {
        header()->capacity = capacity;
        for (std::uint32_t i = 0; i < capacity; ++i) new (header()->slots() + i) TaskSlot;
    }
    RingHeader* header() const { return reinterpret_cast<RingHeader*>(memory_.get()); }

  private:
    struct Delete {
        void operator()(std::byte* memory) const {
            ::operator delete[](memory, std::align_val_t(sidestep::kCacheLine));
        }
    };
    std::unique_ptr<std::byte[], Delete> memory_;

  public:
    RingParent parent;
    RingWorker worker;
};

constexpr std::uint64_t kWords = TaskSlot::kInline / 8;

void publish(RingParent& ring, std::uint64_t serial) {
    TaskSlot& slot = ring.next();
    slot.serial = serial;
    slot.size = 8 * (1 + serial % kWords);  // up to all of the inline bytes
    for (std::uint64_t i = 0; i < slot.size / 8; ++i) {
        std::uint64_t word = serial * 31 + i;
        std::memcpy(slot.inline_bytes + 8 * i, &word, 8);
    }
    ring.publish();
}
bool content_is_whole(const TaskSlot& slot, std::uint64_t factor) {
    for (std::uint64_t i = 0; i < slot.size / 8; ++i) {
        std::uint64_t word;
        std::memcpy(&word, slot.inline_bytes + 8 * i, 8);
        if (word != slot.serial * factor + i) return false;
    }
    return slot.size == 8 * (1 + slot.serial % kWords);
}
void reply(TaskSlot& slot) {
    for (std::uint64_t i = 0; i < slot.size / 8; ++i) {
        std::uint64_t word = slot.serial * 37 + i;
        std::memcpy(slot.inline_bytes + 8 * i, &word, 8);
    }
    slot.reply = ReplyKind::value;
}

}  // namespace

TEST_CASE("a task goes in, its result comes back in the same slot", "[ipc][task_ring]") {
    Ring ring(4);
    CHECK(ring.worker.claim() == nullptr);
    CHECK_FALSE(ring.worker.has_work());
    CHECK(ring.worker.all_consumed());
    publish(ring.parent, 1);
    CHECK(ring.parent.in_flight() == 1);
    CHECK(ring.parent.front_done() == nullptr);
    CHECK(ring.worker.has_work());
    TaskSlot* slot = ring.worker.claim();
    REQUIRE(slot);
    CHECK(slot->state == SlotState::taken);
    CHECK(content_is_whole(*slot, 31));
    CHECK(ring.parent.front_done() == nullptr);
    reply(*slot);
    CHECK(ring.worker.complete(*slot));
    CHECK_FALSE(ring.worker.all_consumed());
    REQUIRE(ring.parent.front_done() == slot);
    CHECK(content_is_whole(*slot, 37));
    ring.parent.release_front();
    CHECK(ring.worker.all_consumed());
    CHECK(ring.parent.in_flight() == 0);
    CHECK(ring.parent.front_done() == nullptr);
}

TEST_CASE("a worker sees that nobody took what it completed some tasks ago", "[ipc][task_ring]") {
    Ring ring(8);
    for (std::uint64_t serial = 1; serial <= 4; ++serial) publish(ring.parent, serial);
    for (std::uint32_t done = 1; done <= 4; ++done) {
        CHECK(ring.worker.complete(*ring.worker.claim()));
        CHECK(ring.worker.parent_lags(3) == (done >= 3));
    }
    ring.parent.release_front();
    CHECK(ring.worker.parent_lags(3));  // the second one is there still
    ring.parent.release_front();
    CHECK_FALSE(ring.worker.parent_lags(3));
    CHECK(ring.worker.parent_lags(2));
    CHECK_FALSE(ring.worker.parent_lags(8));  // it has not completed as many
}

TEST_CASE("a ring holds its capacity, lap after lap", "[ipc][task_ring]") {
    for (std::uint32_t capacity : {1u, 2u, 8u}) {
        Ring ring(capacity);
        CHECK(ring.parent.capacity() == capacity);
        std::uint64_t serial = 0, done = 0;
        for (int lap = 0; lap < 5; ++lap) {
            while (!ring.parent.full()) publish(ring.parent, ++serial);
            CHECK(ring.parent.in_flight() == capacity);
            CHECK(ring.parent.position(ring.parent.published()) ==
                  ring.parent.position(ring.parent.consumed()));
            while (TaskSlot* slot = ring.worker.claim()) CHECK(ring.worker.complete(*slot));
            while (TaskSlot* slot = ring.parent.front_done()) {
                CHECK(slot->serial == ++done);
                ring.parent.release_front();
            }
            CHECK(done == serial);
            CHECK(ring.worker.claim() == nullptr);
        }
    }
}

TEST_CASE("what was taken back has no valid sum, nor has what was never put there",
          "[ipc][task_ring][sum]") {
    Ring ring(2);
    auto is_valid = [](const TaskSlot& slot) {
        return slot.sum == SlotSum::of_task(slot, slot.inline_bytes);
    };
    CHECK_FALSE(is_valid(ring.parent.slot(0)));
    ring.parent.next().sum = SlotSum::of_task(ring.parent.next(), ring.parent.next().inline_bytes);
    ring.parent.publish();
    CHECK(is_valid(ring.parent.slot(0)));
    REQUIRE(ring.parent.take_back_last());
    ring.parent.slot(0).state = SlotState::ready;  // so writes somebody
    TaskSlot* claimed = ring.worker.claim();
    REQUIRE(claimed);
    CHECK_FALSE(is_valid(*claimed));
}

TEST_CASE("what has not started can be taken back, from the end", "[ipc][task_ring]") {
    Ring ring(4);
    CHECK_FALSE(ring.parent.take_back_last());
    for (std::uint64_t serial : {1u, 2u, 3u}) publish(ring.parent, serial);
    TaskSlot* first = ring.worker.claim();
    CHECK(ring.parent.take_back_last());
    CHECK(ring.parent.take_back_last());
    CHECK_FALSE(ring.parent.take_back_last());  // it is taken
    CHECK(ring.parent.in_flight() == 1);
    CHECK(ring.worker.complete(*first));
    CHECK_FALSE(ring.parent.take_back_last());  // it is done
    CHECK(ring.worker.claim() == nullptr);
    publish(ring.parent, 4);  // the slot of 2, anew
    TaskSlot* again = ring.worker.claim();
    REQUIRE(again);
    CHECK(again->serial == 4);
    CHECK(content_is_whole(*again, 31));
}

TEST_CASE("result blocks go back first in, first out, as many as there is room for",
          "[ipc][task_ring]") {
    Ring ring(2);
    CHECK(ring.worker.take_freed() == 0);
    std::uint64_t given = 0, taken = 0;
    for (int lap = 0; lap < 3; ++lap) {
        while (ring.parent.give_back(given + 1)) ++given;
        CHECK(given - taken == RingHeader::kFreeEntries);
        CHECK(ring.worker.take_freed() == ++taken);
        CHECK(ring.parent.give_back(++given));
        CHECK_FALSE(ring.parent.give_back(given + 1));
        for (int i = 0; i < 300; ++i) CHECK(ring.worker.take_freed() == ++taken);
    }
    while (std::uint64_t block = ring.worker.take_freed()) CHECK(block == ++taken);
    CHECK(taken == given);
}

TEST_CASE("a slot whose state somebody changed while it ran is not completed", "[ipc][task_ring]") {
    for (auto value : {SlotState::empty, SlotState::ready, SlotState::done, SlotState(7)}) {
        Ring ring(2);
        publish(ring.parent, 1);
        TaskSlot* slot = ring.worker.claim();
        REQUIRE(slot);
        slot->state = value;
        CHECK_FALSE(ring.worker.complete(*slot));
        CHECK(ring.parent.front_state() == value);
    }
}

TEST_CASE("cursors of the queue of blocks that nobody can have written are told",
          "[ipc][task_ring]") {
    Ring ring(2);
    for (std::uint64_t i = 1; i <= 5; ++i) CHECK(ring.parent.give_back(i));
    CHECK(ring.worker.take_freed() == 1);
    ring.header()->freed = 4;  // ours are private (R4): only what the worker is shown has changed
    CHECK(ring.parent.give_back(6));
    CHECK(ring.header()->freed == 6);
    CHECK(ring.parent.is_sound());
    ring.header()->reused = 7;  // more than were ever there
    CHECK_FALSE(ring.parent.give_back(7));
    CHECK_FALSE(ring.parent.is_sound());
    for (std::uint64_t bad : {std::uint64_t(0), RingHeader::kFreeEntries + std::uint64_t(2)}) {
        ring.header()->freed = bad;
        CHECK(ring.worker.take_freed() == RingWorker::kNonsense);
    }
    ring.header()->freed = 6;
    auto& entry = ring.header()->free_blocks[1];
    auto whole = entry;
    for (std::uint64_t block : {0u, 3u, 5u}) {  // none, and others that may be in use
        entry.block = block;
        CHECK(ring.worker.take_freed() == RingWorker::kNonsense);
    }
    entry = whole;
    CHECK(ring.worker.take_freed() == 2);
}

TEST_CASE("a block that was handed back once is not taken once more", "[ipc][task_ring]") {
    Ring ring(2);
    for (std::uint64_t lap = 0; lap < 2; ++lap)
        for (std::uint64_t i = 0; i < RingHeader::kFreeEntries; ++i) {
            REQUIRE(ring.parent.give_back(i + 1));
            REQUIRE(ring.worker.take_freed() == i + 1);
        }
    ++ring.header()->freed;  // what comes next in the queue is of the lap before
    CHECK(ring.worker.take_freed() == RingWorker::kNonsense);
}

namespace {

// Each word that the sum of a task, or of a reply, is made of.
template <class Check>
void for_each_bit_flipped(TaskSlot& slot, std::size_t content, Check check) {
    auto flip = [&](void* at, std::size_t size) {
        auto* bytes = static_cast<unsigned char*>(at);
        for (std::size_t bit = 0; bit < 8 * size; ++bit) {
            bytes[bit / 8] ^= static_cast<unsigned char>(1u << bit % 8);
            check();
            bytes[bit / 8] ^= static_cast<unsigned char>(1u << bit % 8);
        }
    };
    for (auto* word : {&slot.serial, &slot.module, &slot.offset, &slot.signature}) flip(word, 8);
    for (auto* word : {&slot.fds, &slot.items_begin, &slot.items_end}) flip(word, 4);
    flip(&slot.attempt, sizeof slot.attempt);
    flip(&slot.timed, sizeof slot.timed);
    flip(slot.inline_bytes, content);
}

}  // namespace

TEST_CASE("each bit of a task counts in its sum", "[ipc][task_ring][sum]") {
    TaskSlot slot;
    std::mt19937 random(3);
    for (auto& b : slot.inline_bytes) b = std::byte(random());
    slot.serial = random(), slot.module = random(), slot.offset = random();
    bool all_seen = true;
    for (std::size_t size = 0; size <= TaskSlot::kInline; ++size) {
        slot.size = size;
        std::uint32_t sum = SlotSum::of_task(slot, slot.inline_bytes);
        for_each_bit_flipped(slot, size, [&] {
            all_seen = all_seen && sum != SlotSum::of_task(slot, slot.inline_bytes);
        });
        slot.size = size + 1;
        all_seen = all_seen && sum != SlotSum::of_task(slot, slot.inline_bytes);
    }
    CHECK(all_seen);
    slot.size = ~std::uint64_t(0);  // nonsense is not followed
    CHECK(SlotSum::of_task(slot, slot.inline_bytes) != 0);
}

TEST_CASE("each word of a reply counts in its sum", "[ipc][task_ring][sum]") {
    TaskSlot slot;
    slot.inline_bytes[0] = std::byte{5};
    const SlotSum::Reply reply{7, ReplyKind::value, 0, 4, 100, 20};
    std::uint32_t sum = SlotSum::of_reply(reply, slot.inline_bytes);
    CHECK(sum == SlotSum::of_reply(reply, slot.inline_bytes));
    for (SlotSum::Reply other : {SlotSum::Reply{8, ReplyKind::value, 0, 4, 100, 20},
                                 {7, ReplyKind::error, 0, 4, 100, 20},
                                 {7, ReplyKind::value, 256, 4, 100, 20},
                                 {7, ReplyKind::value, 0, 5, 100, 20},
                                 {7, ReplyKind::value, 0, 4, 101, 20},
                                 {7, ReplyKind::value, 0, 4, 100, 21}})
        CHECK(sum != SlotSum::of_reply(other, slot.inline_bytes));
    slot.inline_bytes[3] = std::byte{1};
    CHECK(sum != SlotSum::of_reply(reply, slot.inline_bytes));
}

namespace {

// Runs tasks until one with serial 0 comes; notes what it sees.
struct Worker {
    RingWorker ring;
    std::vector<std::uint64_t> executed;
    std::vector<std::uint64_t> blocks;  // handed back
    bool whole = true;

    void work() {
        std::mt19937 random(5);
        for (;;) {
            while (std::uint64_t block = ring.take_freed()) blocks.push_back(block);
            TaskSlot* slot = ring.claim();
            if (!slot) {
                wait();
                continue;
            }
            bool stop = slot->serial == 0;
            if (!stop) {
                executed.push_back(slot->serial);
                whole = whole && content_is_whole(*slot, 31);
                reply(*slot);
                slot->block = slot->serial + 1;
                if (random() % 256 == 0) std::this_thread::yield();
            }
            whole = ring.complete(*slot) && whole;
            if (stop) return;
        }
    }
    void wait() {
        for (int i = 0; i < 100; ++i)
            if (ring.has_work()) return;
        EventCount& bell = ring.doorbell();
        EventCount::Key key = bell.prepare(0);
        if (!ring.has_work()) bell.wait(key, {});
        bell.cancel(0);
    }
};

// Publishes tasks 1..total in order, and at random takes back (what goes to the front of the
// backlog again), drains.
class Parent {
  public:
    Parent(RingParent ring, std::uint64_t total, unsigned seed)
        : ring_(ring), shadow_(ring.capacity()), random_(seed) {
        for (std::uint64_t serial = 1; serial <= total; ++serial) backlog_.push_back(serial);
    }
    void run() {
        while (!backlog_.empty() || ring_.in_flight() > 0) {
            switch (random_() % 7) {
                case 0:
                    take_back();
                    break;
                case 1:
                    drain();
                    give_back();
                    break;
                case 2:
                    if (ring_.full()) std::this_thread::yield();
                    drain();
                    break;
                default:
                    publish_some();
            }
        }
        while (!to_give_back_.empty()) give_back();
        publish_one(0);
    }
    std::vector<std::uint64_t> completed;
    std::vector<std::uint64_t> given_back;
    std::uint64_t taken_back = 0;
    bool whole = true;

  private:
    void publish_one(std::uint64_t serial) {
        shadow_[ring_.position(ring_.published())] = serial;
        publish(ring_, serial);
        ring_.wake();
    }
    void publish_some() {
        for (auto n = random_() % 8; n > 0 && !ring_.full() && !backlog_.empty(); --n) {
            publish_one(backlog_.front());
            backlog_.pop_front();
        }
    }
    void take_back() {
        for (auto n = random_() % 8; n > 0 && ring_.take_back_last(); --n) {
            backlog_.push_front(shadow_[ring_.position(ring_.published())]);
            ++taken_back;
        }
    }
    void drain() {
        while (TaskSlot* slot = ring_.front_done()) {
            std::uint64_t serial = shadow_[ring_.position(ring_.consumed())];
            whole = whole && slot->serial == serial && slot->reply == ReplyKind::value &&
                    content_is_whole(*slot, 37);
            completed.push_back(serial);
            to_give_back_.push_back(slot->block);
            ring_.release_front();
        }
    }
    void give_back() {
        while (!to_give_back_.empty() && ring_.give_back(to_give_back_.front())) {
            given_back.push_back(to_give_back_.front());
            to_give_back_.pop_front();
        }
    }

    RingParent ring_;
    std::vector<std::uint64_t> shadow_;  // serials
    std::deque<std::uint64_t> backlog_, to_give_back_;
    std::mt19937 random_;
};

}  // namespace

TEST_CASE("between threads each task runs once and in order", "[ipc][task_ring]") {
    constexpr std::uint64_t kTasks = 60'000;
    std::uint64_t taken_back = 0;
    for (std::uint32_t capacity : {1u, 2u, 16u, 512u}) {
        CAPTURE(capacity);
        Ring ring(capacity);
        Parent parent(ring.parent, kTasks, capacity);
        Worker worker{ring.worker, {}, {}};
        std::thread thread([&] { worker.work(); });
        parent.run();
        thread.join();
        CHECK(parent.whole);
        CHECK(worker.whole);
        CHECK(parent.completed == worker.executed);  // both in order
        std::vector<std::uint64_t> expected(kTasks);
        std::iota(expected.begin(), expected.end(), 1);
        CHECK(parent.completed == expected);
        CHECK(worker.blocks.size() <= parent.given_back.size());
        CHECK(std::equal(worker.blocks.begin(), worker.blocks.end(), parent.given_back.begin()));
        taken_back += parent.taken_back;
    }
    CHECK(taken_back > 1000);  // or it has tested nothing
}

}  // namespace task_ring_test
