#include "memory/arena.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <new>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include "support.hpp"

namespace arena_test {

using sidestep::Arena;
using sidestep::BlockId;
using sidestep::Segment;
namespace sys = sidestep::sys;

namespace {

constexpr std::size_t kMiB = std::size_t(1) << 20;

Segment reserve(std::size_t size) { return Segment::create("sidestep-test", size); }

std::size_t resident_bytes(const Segment& segment) {
    struct stat status = {};
    REQUIRE(fstat(segment.fd().get(), &status) == 0);
    return static_cast<std::size_t>(status.st_blocks) * 512;
}

// Every size around the borders of the classes up to `most`.
std::vector<std::size_t> border_sizes(std::size_t most) {
    std::vector<std::size_t> sizes = {0, 1, 255, 256, 257, 511, 512, 513, 767, 768, 769, 1023};
    for (std::size_t power = 1024; power <= most; power *= 2)
        for (std::size_t quarters : {4u, 5u, 6u, 7u})
            for (std::size_t off : {0u, 1u, 2u}) sizes.push_back(power / 4 * quarters + off - 1);
    return sizes;
}

}  // namespace

TEST_CASE("a block holds what was asked for and wastes at most a fifth", "[ipc][arena]") {
    Segment segment = reserve(std::size_t(1) << 32);
    Arena arena(segment);
    for (std::size_t size : border_sizes(4 * kMiB)) {
        BlockId block = arena.allocate(size);
        std::size_t capacity = Arena::capacity(block);
        INFO("size " << size << ", capacity " << capacity);
        CHECK(block != 0);
        CHECK(capacity >= size);
        if (size > 1024) CHECK(capacity - size <= capacity / 5);
        if (size <= 1024) CHECK(capacity - size <= 256);
        CHECK(Arena::is_valid(block, segment.size()));
        CHECK(arena.bytes_in_use() == capacity);
        CHECK(arena.data(block) == segment.data() + Arena::offset(block));
        arena.free(block);
        BlockId exact = arena.allocate(capacity);  // a class holds its own size
        CHECK(exact == block);
        arena.free(exact);
        CHECK(arena.bytes_in_use() == 0);
    }
}

TEST_CASE("blocks do not overlap", "[ipc][arena]") {
    Segment segment = reserve(std::size_t(1) << 30);
    Arena arena(segment);
    std::mt19937_64 random(7);
    std::vector<BlockId> blocks;
    for (int i = 0; i < 3000; ++i) {
        if (!blocks.empty() && random() % 3 == 0) {
            std::swap(blocks[random() % blocks.size()], blocks.back());
            arena.free(blocks.back());
            blocks.pop_back();
        } else {
            blocks.push_back(arena.allocate(random() % (std::size_t(1) << (random() % 18))));
        }
    }
    std::sort(blocks.begin(), blocks.end());
    std::size_t in_use = 0, end = Arena::kGranule;  // offset 0 is nobody's
    for (BlockId block : blocks) {
        CHECK(Arena::offset(block) >= end);
        end = Arena::offset(block) + Arena::capacity(block);
        in_use += Arena::capacity(block);
    }
    CHECK(end <= segment.size());
    CHECK(arena.bytes_in_use() == in_use);
}

TEST_CASE("freed blocks are recycled last in, first out, class by class", "[ipc][arena]") {
    Segment segment = reserve(64 * kMiB);
    Arena arena(segment);
    BlockId a = arena.allocate(1000), b = arena.allocate(1000), c = arena.allocate(1000);
    BlockId other = arena.allocate(5000);
    arena.free(a);
    arena.free(other);
    arena.free(c);
    arena.free(b);
    CHECK(arena.allocate(900) == b);
    CHECK(arena.allocate(1024) == c);
    CHECK(arena.allocate(1000) == a);
    CHECK(arena.allocate(5000) == other);
    BlockId fresh = arena.allocate(1000);
    CHECK(Arena::offset(fresh) > Arena::offset(other));
}

TEST_CASE("an arena that is used up says so, and works again after a free", "[ipc][arena]") {
    Segment segment = reserve(Arena::kGranule + 4 * 1024);
    Arena arena(segment);
    std::vector<BlockId> blocks;
    for (int i = 0; i < 4; ++i) blocks.push_back(arena.allocate(1024));
    auto message_of = [&](std::size_t size) -> std::string {
        try {
            (void)arena.allocate(size);
            return "no error";
        } catch (const std::bad_alloc& error) {
            return error.what();
        }
    };
    CHECK_THAT(message_of(1), Catch::Contains("is used up") && Catch::Contains("get()"));
    CHECK_THAT(message_of(segment.size() + 1), Catch::Contains("is used up"));
    CHECK_THAT(message_of(~std::size_t(0)), Catch::Contains("is used up"));
    CHECK_THAT(message_of(std::size_t(1) << 62), Catch::Contains("is used up"));
    CHECK(arena.bytes_in_use() == 4 * 1024);
    arena.free(blocks[2]);
    CHECK(arena.allocate(1024) == blocks[2]);
    CHECK_THROWS_AS(arena.allocate(1024), std::bad_alloc);
}

TEST_CASE("the last block fits to the byte", "[ipc][arena]") {
    for (std::size_t size : {256u, 1024u, 4096u, 1u << 20}) {
        Segment exact = reserve(Arena::kGranule + size),
                larger = reserve(Arena::kGranule + size + 1);
        Segment smaller = reserve(Arena::kGranule + size - 1);
        CHECK(Arena(exact).allocate(size) != 0);
        CHECK(Arena(larger).allocate(size) != 0);
        CHECK_THROWS_AS(Arena(smaller).allocate(size), std::bad_alloc);
    }
    Segment least = reserve(Arena::kGranule);
    Arena empty(least);
    CHECK_THROWS_AS(empty.allocate(0), std::bad_alloc);
}

TEST_CASE("a large block has all its pages before it is handed out", "[ipc][arena]") {
    Segment segment = reserve(64 * kMiB);
    Arena arena(segment);
    BlockId small = arena.allocate(300);  // so that what follows begins amid a page
    CHECK(resident_bytes(segment) <= 4096);
    BlockId large = arena.allocate(2 * kMiB);
    CHECK(Arena::offset(large) % 4096 != 0);
    CHECK(resident_bytes(segment) >= 2 * kMiB);
    arena.free(large);
    arena.free(small);
}

TEST_CASE("large free blocks beyond the cache limit give their pages back", "[ipc][arena]") {
    Segment segment = reserve(64 * kMiB);
    Arena arena(segment, 3 * kMiB);
    std::vector<BlockId> blocks;
    for (int i = 0; i < 6; ++i) {
        blocks.push_back(arena.allocate(kMiB));
        std::memset(arena.data(blocks.back()), 1 + i, kMiB);
    }
    CHECK(resident_bytes(segment) >= 6 * kMiB);
    for (BlockId block : blocks) arena.free(block);  // three stay, three go
    CHECK(resident_bytes(segment) >= 3 * kMiB);
    CHECK(resident_bytes(segment) <= 3 * kMiB + 8 * 4096);
    for (int i = 6; i-- > 0;) {
        BlockId block = arena.allocate(kMiB);
        CHECK(block == blocks[static_cast<std::size_t>(i)]);
        CHECK(arena.data(block)[kMiB / 2] == std::byte(i < 3 ? 1 + i : 0));
        std::memset(arena.data(block), 9, kMiB);
    }
    CHECK(resident_bytes(segment) >= 6 * kMiB);
    for (BlockId block : blocks) arena.free(block);
    CHECK(resident_bytes(segment) <= 3 * kMiB + 8 * 4096);
    Arena keeps_nothing(segment, 0);
    keeps_nothing.free(keeps_nothing.allocate(kMiB));
    BlockId just_below = keeps_nothing.allocate(kMiB - 256 * 1024);
    std::memset(keeps_nothing.data(just_below), 7, 16);
    keeps_nothing.free(just_below);  // small ones always keep theirs
    CHECK(keeps_nothing.data(just_below)[0] == std::byte{7});
}

TEST_CASE("is_valid() accepts what lies within the segment, whoever wrote it", "[ipc][arena]") {
    constexpr std::size_t kSize = 16 * kMiB;
    CHECK_FALSE(Arena::is_valid(0, kSize));
    CHECK(Arena::is_valid(256, kSize));              // class 0: 256 bytes
    CHECK_FALSE(Arena::is_valid(256 | 128, kSize));  // no such class
    CHECK_FALSE(Arena::is_valid(256 | 255, kSize));
    CHECK(Arena::is_valid(kSize - 256, kSize));
    CHECK_FALSE(Arena::is_valid(kSize, kSize));
    CHECK_FALSE(Arena::is_valid((kSize - 256) | 1, kSize));  // 512 bytes: 256 too many
    CHECK(Arena::is_valid((kSize - 512) | 1, kSize));
    CHECK_FALSE(Arena::is_valid(256, 255));
    CHECK_FALSE(Arena::is_valid(256, 511));
    CHECK(Arena::is_valid(256, 512));
    CHECK_FALSE(Arena::is_valid(256, 0));
    std::mt19937_64 random(11);
    int valid = 0;
    bool all_within = true;
    for (int i = 0; i < 200'000; ++i) {
        BlockId block = random() >> (random() % 64);
        if (!Arena::is_valid(block, kSize)) continue;
        ++valid;
        all_within = all_within && block != 0 && Arena::offset(block) <= kSize &&
                     Arena::capacity(block) <= kSize - Arena::offset(block);
    }
    CHECK(valid > 0);
    CHECK(all_within);
}

TEST_CASE("whoever scribbles over the memory does not damage the arena", "[ipc][arena]") {
    Segment segment = reserve(4 * kMiB), twin = reserve(4 * kMiB);
    Arena arena(segment), undisturbed(twin);
    std::mt19937_64 random(3);
    std::vector<BlockId> blocks;
    for (int i = 0; i < 1000; ++i) {
        std::memset(segment.data(), static_cast<int>(random() % 256), 64 << 10);
        if (!blocks.empty() && random() % 2) {
            arena.free(blocks.back());
            undisturbed.free(blocks.back());
            blocks.pop_back();
        } else {
            std::size_t size = random() % 3000;
            blocks.push_back(arena.allocate(size));
            REQUIRE(undisturbed.allocate(size) == blocks.back());
        }
    }
}

TEST_CASE("freeing what was never allocated is a bug that ends the process", "[ipc][arena]") {
    Segment segment = reserve(kMiB);
    Arena arena(segment);
    (void)arena.allocate(256);
    for (BlockId bad : {BlockId(0), BlockId(512), BlockId(256 | 200), BlockId(1) << 40}) {
        pid_t pid = fork();
        if (pid == 0) {
            close(STDERR_FILENO);
            std::signal(SIGABRT, SIG_DFL);
            arena.free(bad);
            _exit(0);
        }
        sidestep::Fd pidfd = sys::pidfd_open(pid);
        CHECK(sys::wait_pidfd(pidfd.get(), true).signal() == SIGABRT);
    }
}

namespace {

// Allocates so many bytes in blocks of one size, writes to each, and frees all.
void burst(Arena& arena, std::size_t total, std::size_t size) {
    std::vector<BlockId> blocks;
    for (std::size_t bytes = 0; bytes + size <= total; bytes += size) {
        blocks.push_back(arena.allocate(size));
        std::memset(arena.data(blocks.back()), 1, size);
    }
    for (BlockId block : blocks) arena.free(block);
}

}  // namespace

TEST_CASE("bursts of blocks that differ in size take at most 1.5 times the largest",
          "[ipc][arena]") {
    constexpr std::size_t kBurst = 24 * kMiB;
    bool tiny = GENERATE(true, false);
    std::size_t unit = tiny ? 3000 : 300 * 1024;
    Segment segment = reserve(kBurst * 3 / 2);  // there is no more, either
    Arena arena(segment);
    for (int round = 0; round < 3; ++round)
        for (std::size_t tenths : {10u, 13u, 20u, 33u, 7u, 47u})
            burst(arena, kBurst, unit * tenths / 10);
    CHECK(resident_bytes(segment) <= kBurst * 3 / 2);
    CHECK(arena.bytes_in_use() == 0);
}

TEST_CASE("what lies between blocks in use is joined and used for other sizes", "[ipc][arena]") {
    Segment segment = reserve(Arena::kGranule + 64 * 1024);
    Arena arena(segment);
    std::vector<BlockId> blocks;
    for (int i = 0; i < 64; ++i) blocks.push_back(arena.allocate(1024));
    for (std::size_t i = 0; i < 64; ++i)
        if (i % 16 != 15) arena.free(blocks[i]);  // four pieces of fifteen
    std::vector<BlockId> large;
    for (int i = 0; i < 4; ++i) large.push_back(arena.allocate(14 * 1024));
    CHECK_THROWS_WITH(arena.allocate(2048), Catch::Contains("in pieces between them"));
    for (int i = 0; i < 4; ++i) (void)arena.allocate(1024);
    for (std::size_t i = 15; i < 64; i += 16) arena.free(blocks[i]);
    for (BlockId block : large) arena.free(block);
    CHECK(arena.allocate(14 * 1024) != 0);
}

TEST_CASE("the pages of what is free go back to the system, of small blocks too", "[ipc][arena]") {
    Segment segment = reserve(64 * kMiB);
    Arena arena(segment);
    burst(arena, 4 * kMiB, 512);
    burst(arena, 8 * kMiB, 2 * kMiB);
    BlockId kept = arena.allocate(5000);
    std::memset(arena.data(kept), 7, 5000);
    CHECK(resident_bytes(segment) >= 4 * kMiB);
    arena.give_back_pages();
    CHECK(resident_bytes(segment) <= 64 * 1024);
    bool whole = true;
    for (int i = 0; i < 5000; ++i) whole = whole && arena.data(kept)[i] == std::byte{7};
    CHECK(whole);
    burst(arena, 32 * kMiB, 3 * kMiB);
    arena.free(kept);
    arena.give_back_pages();
    CHECK(resident_bytes(segment) <= 2 * 4096);                   // what begins or ends amid a page
    CHECK(Arena::offset(arena.allocate(64)) == Arena::kGranule);  // as at first
}

TEST_CASE("while what is free is out of its arena, that goes on with the rest", "[ipc][arena]") {
    Segment segment = reserve(Arena::kGranule + 8 * 1024);
    Arena arena(segment);
    std::vector<BlockId> blocks;
    for (int i = 0; i < 6; ++i) blocks.push_back(arena.allocate(1024));
    for (int i = 0; i < 4; ++i) arena.free(blocks[static_cast<std::size_t>(i)]);
    Arena::Free free = arena.take_free();
    CHECK(free.has_pages());
    BlockId seventh = arena.allocate(1024), eighth = arena.allocate(1024);
    CHECK_THROWS_AS(arena.allocate(1024), std::bad_alloc);
    arena.free(blocks[5]);
    free.discard(segment);
    CHECK_FALSE(free.has_pages());
    arena.put_back(std::move(free));
    CHECK(arena.allocate(1024) == blocks[5]);
    CHECK(arena.allocate(4096) != 0);
    CHECK(arena.is_in_use(seventh));
    CHECK(arena.is_in_use(eighth));
}

TEST_CASE("blocks of any sizes never overlap, whatever was joined, cut and given back",
          "[ipc][arena]") {
    Segment segment = reserve(48 * kMiB);
    Arena arena(segment, 4 * kMiB);
    std::mt19937_64 random(13);
    std::vector<std::pair<BlockId, std::byte>> blocks;
    auto holds = [&](std::size_t i) {
        const auto& [block, value] = blocks[i];
        const std::byte* data = arena.data(block);
        return data[0] == value && data[Arena::capacity(block) - 1] == value;
    };
    bool all_hold = true;
    std::size_t used_up = 0;
    for (int i = 0; i < 60'000; ++i) {
        if (random() % 5000 == 0) arena.give_back_pages();
        if (!blocks.empty() && (random() % 9 < 4 || i % 10'000 > 9'500)) {
            std::swap(blocks[random() % blocks.size()], blocks.back());
            all_hold = all_hold && holds(blocks.size() - 1);
            arena.free(blocks.back().first);
            blocks.pop_back();
            continue;
        }
        try {
            BlockId block = arena.allocate(random() % (std::size_t(1) << (8 + random() % 14)));
            auto value = std::byte(1 + random() % 255);
            arena.data(block)[0] = arena.data(block)[Arena::capacity(block) - 1] = value;
            blocks.emplace_back(block, value);
        } catch (const std::bad_alloc&) {
            ++used_up;
        }
    }
    CHECK(used_up > 0);  // it got to the limit
    for (std::size_t i = 0; i < blocks.size(); ++i) all_hold = all_hold && holds(i);
    CHECK(all_hold);
    for (const auto& [block, value] : blocks) arena.free(block);
    CHECK(arena.bytes_in_use() == 0);
    CHECK(arena.allocate(40 * kMiB) != 0);  // it is all one piece again
}

TEST_CASE("only what was handed out is in use", "[ipc][arena]") {
    Segment segment = reserve(kMiB);
    Arena arena(segment);
    BlockId block = arena.allocate(1024);
    CHECK(arena.is_in_use(block));
    for (BlockId other : {BlockId(0), block + 1, block + Arena::kGranule, block | 255, ~BlockId(0),
                          BlockId(1) << 40 | block})
        CHECK_FALSE(arena.is_in_use(other));
    arena.free(block);
    CHECK_FALSE(arena.is_in_use(block));
}

}  // namespace arena_test
