// What is believed of a slot of a worker's ring. White box: memory alone, without a worker.
#include <atomic>
#include <cstring>
#include <optional>
#include <string>

#include <catch2/catch.hpp>

#include <sidestep/detail/chunk.hpp>

#include "lanes/ring_slot.hpp"
#include "queue/partial_result.hpp"

namespace ring_slot_test {

using namespace sidestep;
using sidestep::detail::SlotReply;

TEST_CASE("what is checked of a reply is what is taken, whatever is written meanwhile",
          "[pool][rooms][ring_slot][scribble]") {
    constexpr std::size_t kResults = 4096;
    for (std::uint64_t size : {1u, 8u, 13u, 152u}) {
        TaskSlot slot;
        slot.serial = 7;
        slot.size = size;
        slot.reply = ReplyKind::stopped;  // of no task
        slot.begun_ns = 3;
        std::memset(slot.inline_bytes, 'r', sizeof slot.inline_bytes);
        slot.sum = SlotSum::of_reply({7, slot.reply, 0, size, 3, 0}, slot.inline_bytes);
        SlotReply reply(slot);
        slot.inline_bytes[size - 1] = std::byte{'w'};  // the task that runs by now
        CHECK(reply.is_sound(nullptr, kResults));
        CHECK(std::memcmp(reply.inline_bytes, std::string(size, 'r').data(), size) == 0);
        CHECK_FALSE(SlotReply(slot).is_sound(nullptr, kResults));
    }
    TaskSlot slot;
    slot.size = 153;  // more than there is
    slot.reply = ReplyKind::stopped;
    CHECK_FALSE(SlotReply(slot).is_sound(nullptr, kResults));
}

TEST_CASE("what is checked of a task is what is run, whatever is written meanwhile",
          "[pool][rooms][ring_slot][scribble]") {
    for (std::uint64_t size : {0u, 1u, 8u, 13u, 152u}) {
        TaskSlot slot;
        slot.serial = 7;
        slot.offset = 5;
        slot.size = size;
        slot.items_end = 3;
        std::memset(slot.inline_bytes, 'a', sizeof slot.inline_bytes);
        slot.sum = SlotSum::of_task(slot, slot.inline_bytes);
        SlotTask task(slot);
        slot.size = 8;
        slot.block = slot.offset = slot.items_end = 1;
        std::memset(slot.inline_bytes, 'w', sizeof slot.inline_bytes);
        CHECK(task.is_sound());
        CHECK((task.serial == 7 && task.offset == 5 && task.items_end == 3 && task.block == 0));
        REQUIRE(task.size == size);
        CHECK(std::memcmp(task.inline_bytes, std::string(size, 'a').data(), size) == 0);
        CHECK_FALSE(SlotTask(slot).is_sound());
    }
    TaskSlot slot;
    slot.size = 153;  // more than there is
    slot.sum = SlotSum::of_task(slot, slot.inline_bytes);
    CHECK_FALSE(SlotTask(slot).is_sound());
}

TEST_CASE("a block is looked at whatever the reply says that it is",
          "[pool][rooms][ring_slot][scribble]") {
    TaskSlot slot;
    slot.reply = ReplyKind::stopped;
    slot.size = 8;
    for (std::uint64_t block : {std::uint64_t(4096), ~std::uint64_t(0), std::uint64_t(1) << 40}) {
        slot.block = block;
        slot.sum = SlotSum::of_reply({0, slot.reply, block, 8, 0, 0}, slot.inline_bytes);
        CHECK_FALSE(SlotReply(slot).is_sound(nullptr, 4096));
    }
}

namespace {

// A chunk of ten numbers of which three are done; its worker's memory.
struct Chunk {
    static constexpr std::uint64_t kItems = 10, kDone = 3, kBits = 2;
    static std::uint64_t told(std::uint64_t items) {
        return detail::ChunkProgress::pack(items, kBits + 8 * items);
    }
    Chunk() {
        header->capacity = 1;
        new (header->slots()) TaskSlot;
        slot.serial = 7;
        ring.publish();
        slot.state = SlotState::taken;
    }
    // The worker's steps.
    void begin() {
        writer.begin(slot, 7);
        writer.begin_anew();
        words.begun = 1;
    }
    void finish_three() {
        begin();
        for (std::uint64_t i = 1; i <= kDone; ++i) writer.tell(told(i));
    }
    // How many items are believed to be done; nothing: none of it.
    std::optional<std::uint32_t> believed() {
        auto partial = detail::copy_partial(ring, words, results, kItems);
        if (!partial) return {};
        return partial->items;
    }

    alignas(kCacheLine) std::byte memory[sizeof(RingHeader) + sizeof(TaskSlot)] = {};
    RingHeader* const header = new (memory) RingHeader;
    TaskSlot& slot = *header->slots();
    RingParent ring{header, 1};
    WorkerWords words;
    Segment results = Segment::create("test-results", 1 << 20);
    PartialWriter writer{words.partial_checks};
};

}  // namespace

TEST_CASE("a chunk is believed to be as far as two words say, at each step of its worker",
          "[pool][rooms][ring_slot][scribble]") {
    Chunk chunk;
    CHECK(chunk.believed() == 0);  // it was taken
    chunk.begin();
    CHECK(chunk.believed() == 0);
    chunk.writer.tell(Chunk::told(1));
    CHECK(chunk.believed() == 1);
    // Killed amid the next step: what vouches is there, the progress not yet.
    struct Amid : PartialWriter {
        using PartialWriter::vouch;
        explicit Amid(const PartialWriter& writer) : PartialWriter(writer) {}
        std::uint64_t key() const { return key_; }
    } amid(chunk.writer);
    amid.vouch(Chunk::told(2), amid.key());
    CHECK(chunk.believed() == 1);
    chunk.writer.tell(Chunk::told(2));
    CHECK(chunk.believed() == 2);
    amid = Amid(chunk.writer);
    amid.vouch(0, partial_key(7, 0));  // of begin_anew()
    CHECK(chunk.believed() == 2);
    chunk.writer.begin_anew();
    CHECK(chunk.believed() == 0);
    chunk.writer.tell(Chunk::told(1));
    chunk.writer.tell(Chunk::told(2));
    amid = Amid(chunk.writer);
    amid.vouch(Chunk::told(2), partial_key(7, 4096));  // of moved_to()
    CHECK(chunk.believed() == 2);
}

TEST_CASE("no single word has more, or fewer, of a chunk's items believed to be done",
          "[pool][rooms][ring_slot][scribble]") {
    // But what it was before: a worker may be killed when it has vouched for more, and not told it.
    for (std::uint64_t items : {0u, 1u, 4u, 8u, 10u}) {
        Chunk chunk;
        chunk.finish_three();
        REQUIRE(chunk.believed() == Chunk::kDone);
        chunk.slot.progress = items == 0 ? 0 : Chunk::told(items);
        CHECK_FALSE(chunk.believed());
        chunk.words.begun = 0;  // not even with this one
        CHECK_FALSE((items != 0 && chunk.believed()));
    }
    for (std::uint64_t block : {std::uint64_t(1), std::uint64_t(4096), ~std::uint64_t(0)}) {
        Chunk chunk;
        chunk.finish_three();
        chunk.slot.partial_block = block;
        CHECK_FALSE(chunk.believed());
    }
    for (std::uint64_t serial : {0u, 6u, 8u}) {
        Chunk chunk;
        chunk.finish_three();
        chunk.slot.serial = serial;
        CHECK_FALSE(chunk.believed());
    }
    Chunk chunk;
    chunk.finish_three();
    chunk.words.begun = 0;
    CHECK(chunk.believed() == Chunk::kDone);
    for (std::atomic<std::uint64_t>& check : chunk.words.partial_checks) check ^= 1;
    CHECK_FALSE(chunk.believed());
}

}  // namespace ring_slot_test
