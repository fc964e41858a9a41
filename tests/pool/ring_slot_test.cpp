// What is believed of a slot of a worker's ring. White box: memory alone, without a worker.
#include <cstring>
#include <string>

#include <catch2/catch.hpp>

#include "lanes/ring_slot.hpp"

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
