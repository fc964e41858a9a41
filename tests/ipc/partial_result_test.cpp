// What the parent copies of a result that is being written is of one piece, or thrown away. Two
// threads in one process, under ThreadSanitizer too.
#include "queue/partial_result.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "support.hpp"

namespace partial_result_test {

using sidestep::copy_racing;
using sidestep::PartialLook;
using sidestep::PartialWriter;
using sidestep::TaskSlot;

namespace {

constexpr std::size_t kBlockBytes = 4096;  // a copy takes about as long as to write over it
constexpr std::uint64_t kBlock = 256;      // its name; there is one
#ifdef TEST_SANITIZED
constexpr int kRounds = 3'000;
#else
constexpr int kRounds = 30'000;
#endif

// A result that grows, and is thrown away or moved while somebody copies it.
struct World {
    World() { slot.serial = 7; }
    TaskSlot slot;
    std::atomic<std::uint64_t> checks[2] = {};
    std::vector<std::byte> block = std::vector<std::byte>(kBlockBytes);
    // Rounds: there is something to copy, somebody copies it, it is gone, nobody copies any more.
    std::atomic<int> written{0}, begun{0}, gone{0}, copied{0};

    std::byte* place(std::uint64_t at) { return at ? block.data() : slot.inline_bytes; }
    static std::size_t size(std::uint64_t at) { return at ? kBlockBytes : TaskSlot::kInline; }
};

void wait_for(const std::atomic<int>& word, int value) {
    for (int i = 0; word.load(std::memory_order_acquire) < value; ++i)
        if (i > 1000) std::this_thread::yield();
}

// When it is thrown away: after the copy, amid it, or at any moment.
enum When { after, amid, whenever };
When when(int round) { return static_cast<When>(round % 3); }

// In each round: a result of ones, copied by the other thread, is thrown away, and then the same
// place holds twos.
enum class Kind { thrown_away, in_the_same_block, moved };
void write_rounds(World& world, Kind kind) {
    PartialWriter writer(world.checks);
    writer.begin(world.slot, 7);
    writer.begin_anew();
    for (int round = 1; round <= kRounds; ++round) {
        std::uint64_t at = kind == Kind::thrown_away ? 0 : kBlock;
        std::fill_n(world.place(at), World::size(at), std::byte{1});
        writer.moved_to(at);
        writer.tell(1 + World::size(at));
        world.written.store(round, std::memory_order_release);
        wait_for(when(round) == after ? world.copied : world.begun, round);
        for (int i = 0; when(round) == whenever && i < round % 4096; ++i)
            std::atomic_signal_fence(std::memory_order_seq_cst);
        if (kind == Kind::moved) {
            std::fill_n(world.slot.inline_bytes, TaskSlot::kInline, std::byte{1});
            writer.moved_to(0);  // as good as any other place
        } else {
            writer.begin_anew();
        }
        std::fill_n(world.place(at), World::size(at), std::byte{2});
        if (kind == Kind::in_the_same_block) writer.moved_to(at);
        world.gone.store(round, std::memory_order_release);
        wait_for(world.copied, round);
    }
}

struct Copies {
    int whole = 0, thrown_away = 0, torn = 0, doubted = 0;
};
Copies copy_rounds(World& world) {
    Copies copies;
    std::vector<std::byte> copy(kBlockBytes);
    for (int round = 1; round <= kRounds; ++round) {
        wait_for(world.written, round);
        if (when(round) == whenever) world.begun.store(round, std::memory_order_release);
        PartialLook look(world.slot, world.checks);
        if (!look.is_vouched_for() && look.is_unchanged()) ++copies.doubted;
        std::size_t size = std::min<std::size_t>(look.progress, World::size(look.block));
        std::size_t half = size / 2;
        copy_racing(copy.data(), world.place(look.block), half);
        world.begun.store(round, std::memory_order_release);
        if (when(round) == amid) wait_for(world.gone, round);
        copy_racing(copy.data() + half, world.place(look.block) + half, size - half);
        auto is_one = [](std::byte b) { return b == std::byte{1}; };
        if (look.progress == 0 || !look.is_vouched_for() || !look.still_holds())
            ++copies.thrown_away;
        else if (std::all_of(copy.data(), copy.data() + size, is_one))
            ++copies.whole;
        else
            ++copies.torn;
        world.copied.store(round, std::memory_order_release);
    }
    return copies;
}

}  // namespace

TEST_CASE("a copy of a result that is thrown away or moved meanwhile is never torn",
          "[ipc][partial_result]") {
    Kind kind = GENERATE(Kind::thrown_away, Kind::in_the_same_block, Kind::moved);
    auto world = std::make_unique<World>();
    std::thread writer([&] { write_rounds(*world, kind); });
    Copies copies = copy_rounds(*world);
    writer.join();
    CAPTURE(copies.whole, copies.thrown_away);
    CHECK(copies.torn == 0);
    CHECK(copies.doubted == 0);  // nobody but the writer wrote there
    CHECK(copies.whole > 0);
    CHECK(copies.thrown_away > 0);  // or nothing was tested
}

TEST_CASE("copy_racing() copies each byte, from any place", "[ipc][partial_result]") {
    std::vector<std::byte> from(64), to(64);
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = std::byte(i + 1);
    for (std::size_t begin = 0; begin < 9; ++begin) {
        for (std::size_t size = 0; size + begin <= from.size(); ++size) {
            std::fill(to.begin(), to.end(), std::byte{0});
            copy_racing(to.data(), from.data() + begin, size);
            CHECK(std::equal(to.data(), to.data() + size, from.data() + begin));
            CHECK(std::count(to.data() + size, to.data() + 64, std::byte{0}) ==
                  static_cast<std::ptrdiff_t>(64 - size));
        }
    }
}

}  // namespace partial_result_test
