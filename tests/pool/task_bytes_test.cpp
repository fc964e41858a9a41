// Where the bytes of a task lie, as it is written and as it ends. White box: the record alone, of
// a pool that was never started.
#include <algorithm>
#include <cstddef>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include "room_support.hpp"

namespace task_bytes_test {

using namespace sidestep::detail;
using test::Tasks;

namespace {

std::vector<std::byte> some_bytes(std::size_t size) {
    std::vector<std::byte> bytes(size);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = std::byte(i * 7 + size);
    return bytes;
}

std::vector<std::byte> bytes_of(std::span<const std::byte> view) {
    return {view.begin(), view.end()};
}

std::vector<std::byte> arguments_of(const PoolTask& task) {
    PoolTask::ArgumentView view = task.argument_view();
    const std::byte* data = view.block ? task.core().memory().data(view.block) : view.inline_bytes;
    return {data, data + view.size};
}

// Around what fits into the record, and into a second one.
constexpr std::size_t kSizes[] = {0, 1, 23, 24, 25, 26, 151, 152, 153, 154, 5000};

}  // namespace

TEST_CASE("a task has the arguments that were written, in one piece or byte by byte",
          "[pool][rooms][task_bytes]") {
    Tasks tasks;
    for (std::size_t size : kSizes) {
        CAPTURE(size);
        std::vector<std::byte> bytes = some_bytes(size);
        PoolTask* at_once = tasks.make();
        TaskWriter(*at_once).write(bytes.data(), size);
        CHECK(arguments_of(*at_once) == bytes);
        CHECK((at_once->block != 0) == (size > PoolTask::kInline));
        PoolTask* bytewise = tasks.make();
        {
            TaskWriter writer(*bytewise);
            for (std::byte each : bytes) writer.write(&each, 1);
        }
        CHECK(arguments_of(*bytewise) == bytes);
        CHECK_FALSE(bytewise->more);
    }
}

TEST_CASE("a writer begins anew where the former one ended", "[pool][rooms][task_bytes]") {
    Tasks tasks;
    for (std::size_t before : kSizes)
        for (std::size_t size : kSizes) {
            CAPTURE(before, size);
            PoolTask* task = tasks.make();
            TaskWriter(*task).write(some_bytes(before).data(), before);
            TaskWriter(*task).write(some_bytes(size).data(), size);
            CHECK(arguments_of(*task) == some_bytes(size));
        }
}

TEST_CASE("arguments that are kept are the same, and a part has them too",
          "[pool][rooms][task_bytes]") {
    Tasks tasks;
    for (std::size_t size : kSizes) {
        CAPTURE(size);
        PoolTask* task = tasks.make();
        TaskWriter(*task).write(some_bytes(size).data(), size);
        task->set_chunk(10, 100);
        PoolTaskRef part = task->part(3, 7);
        CHECK(arguments_of(*task) == some_bytes(size));
        CHECK(arguments_of(*part) == some_bytes(size));
        CHECK(part->items().begin == 3);
        CHECK(part->items().end == 7);
        CHECK(part->items().first == 100);
    }
}

TEST_CASE("the bytes of a result take the place of those of the arguments",
          "[pool][rooms][task_bytes]") {
    for (std::size_t before : kSizes) {
        if (before > TaskBytes::kWide) continue;
        for (std::size_t size : kSizes) {
            CAPTURE(before, size);
            TaskBytes bytes;
            std::ranges::copy(some_bytes(before), bytes.make_room(before));
            REQUIRE(bytes.assign(some_bytes(size)));
            CHECK(bytes.size() == size);
            CHECK(bytes_of(bytes.view()) == some_bytes(size));
            CHECK_FALSE(bytes.failure());
        }
    }
}

TEST_CASE("what a task failed of has no bytes, and is no result", "[pool][rooms][task_bytes]") {
    for (std::size_t before : kSizes) {
        CAPTURE(before);
        TaskBytes bytes;
        REQUIRE(bytes.assign(some_bytes(before)));
        bytes.fail(std::make_exception_ptr(std::runtime_error("why")));
        CHECK(bytes.view().empty());
        REQUIRE(bytes.failure());
        CHECK_THROWS_WITH(std::rethrow_exception(bytes.failure()), "why");
        bytes.take(some_bytes(before));  // or what it had finished by then
        CHECK_FALSE(bytes.failure());
        CHECK(bytes_of(bytes.view()) == some_bytes(before));
    }
}

}  // namespace task_bytes_test
