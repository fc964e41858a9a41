// Single words that somebody writes over: with a value that the word could have, at another time.
// Each is found. (What is written at random: scribble_test.cpp.)
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/queue.hpp>
#include <sidestep/sync.hpp>

#include "queue/byte_ring.hpp"
#include "scribble.hpp"
#include "support.hpp"
#include "sync/event_count.hpp"
#include "sync/owner_lock.hpp"

namespace scribble_word_test {

using namespace sidestep;
using namespace std::chrono_literals;
using test::PartnersView;

namespace {

// Where in a queue's memory: the flags of its state, and how many items of it are done.
constexpr std::size_t kFlagsAt = kCacheLine, kDoneAt = 6 * kCacheLine;

void write_number(const PartnersView& partner, std::size_t at, std::uint32_t number) {
    std::memcpy(partner.regions()[0].data() + at, &number, sizeof number);
}
// Of the first item on loan: whose it is. That is this process.
std::byte* first_loan(const PartnersView& partner) {
    std::span<std::byte> all = partner.regions()[0];
    for (std::size_t at = kDoneAt; at + 8 <= all.size(); at += 8) {
        OwnerId owner = 0;
        std::memcpy(&owner, all.data() + at, sizeof owner);
        if (owner == this_process()) return all.data() + at;
    }
    throw std::logic_error("there is no loan");
}

}  // namespace

TEST_CASE("a queue whose end nobody made has not ended", "[ipc][scribble]") {
    for (std::uint32_t flags : {1u, 2u, 3u, 8u, 9u}) {
        CAPTURE(flags);
        Queue<int> queue;
        queue.put(1);
        PartnersView partner(queue);
        write_number(partner, kFlagsAt, flags);
        auto get_all = [&] {
            while (queue.get_for(1ms)) {
            }
        };
        CHECK_THROWS_AS(get_all(), DamagedError);
        CHECK_THROWS_AS(queue.put(2), DamagedError);
    }
}

TEST_CASE("what nobody called done is not done", "[ipc][scribble]") {
    JoinableQueue<int> queue;
    queue.put(1);
    queue.put(2);
    PartnersView partner(queue);
    for (std::uint32_t done : {1u, 2u}) {
        write_number(partner, kDoneAt, done);
        CHECK_THROWS_AS(queue.unfinished(), DamagedError);
        CHECK_THROWS_AS(queue.join_for(1ms), DamagedError);
        CHECK_THROWS_AS(queue.task_done(), DamagedError);
    }
}

TEST_CASE("an item on loan does not vanish", "[ipc][scribble]") {
    JoinableQueue<int> queue({.lease = true});
    for (int i = 0; i < 3; ++i) queue.put(i);
    for (int i = 0; i < 3; ++i) (void)queue.get();
    PartnersView partner(queue);
    std::byte* loan = first_loan(partner);
    CHECK(queue.unfinished() == 3);
    SECTION("with the count of the loans") {
        for (std::uint32_t used : {0u, 1u, 7u}) {
            std::memcpy(loan - 8, &used, sizeof used);
            CHECK_THROWS_AS(queue.unfinished(), DamagedError);
        }
    }
    SECTION("with its owner") { std::memset(loan, 0, 8); }
    CHECK_THROWS_AS(queue.unfinished(), DamagedError);
    CHECK_THROWS_AS(queue.join_for(0ms), DamagedError);
    CHECK_THROWS_AS(queue.task_done(), DamagedError);
    queue.put(4);
    CHECK_THROWS_AS(queue.get(), DamagedError);
}

TEST_CASE("a barrier's round ends when all have come, not when somebody writes so",
          "[ipc][scribble]") {
    Barrier barrier(2);
    PartnersView partner(barrier);
    std::byte* word = partner.regions()[0].data() + sizeof(ObjectHeader) + sizeof(OwnerLock);
    auto next_round = [&] {
        std::uint32_t round = 0;
        std::memcpy(&round, word, sizeof round);
        ++round;
        std::memcpy(word, &round, sizeof round);
    };
    SECTION("while one waits") {
        bool broken = false;
        std::thread party([&] {
            try {
                barrier.wait();
            } catch (const BrokenBarrierError&) {
                broken = true;
            }
        });
        CHECK(test::eventually([&] { return barrier.n_waiting() == 1; }));
        next_round();
        party.join();
        CHECK(broken);
    }
    SECTION("before one comes") {
        next_round();
        CHECK_THROWS_AS(barrier.wait_for(0ms), BrokenBarrierError);
    }
    CHECK(barrier.broken());
    barrier.reset();
    std::thread party([&] { barrier.wait(); });
    barrier.wait();
    party.join();
}

TEST_CASE("a queue lies at the beginning of its memory", "[ipc][scribble]") {
    constexpr std::uint64_t kElsewhere = 1 << 20;
    Queue<int> queue({.max_bytes = 8 << 20});
    PartnersView partner(queue);
    std::byte* begin = partner.regions()[0].data();
    detail::HeapBuffer buffer;
    test::FdCollector collected;
    OutputArchive archive(buffer, &collected);
    archive(queue);
    std::vector<std::byte> bytes(buffer.begin(), buffer.begin() + buffer.size());
    auto arrive = [&] {
        std::vector<Fd> fds;
        for (int fd : collected.fds) fds.emplace_back(::dup(fd));
        test::FdDealer dealer(std::move(fds));
        InputArchive input(bytes, &dealer);
        auto other = detail::make_blank<Queue<int>>();
        input(other);
        return other;
    };
    CHECK(arrive() == queue);
    // Whole but for its size, and said to be there: behind the number of its descriptor.
    ObjectHeader header;
    std::memcpy(&header, begin, sizeof header);
    header.size -= kElsewhere;
    std::memcpy(begin + kElsewhere, begin, 2 * kCacheLine);
    std::memcpy(begin + kElsewhere, &header, sizeof header);
    write_number(partner, kElsewhere + sizeof header, 1024);  // units
    std::memcpy(bytes.data() + 8, &kElsewhere, sizeof kElsewhere);
    CHECK_THROWS_AS(arrive(), DamagedError);
}

TEST_CASE("records are checked where they were copied to", "[ipc][scribble]") {
    constexpr std::uint32_t kUnits = 512;
    RingWords words;
    std::vector<std::byte> memory(kUnits * kUnit);
    ByteRing ring(words, memory.data(), kUnits, 100);
    const std::uint64_t records[] = {8, 'a', 8, 'b', 8, 'c'};  // lengths and contents
    auto* begin = reinterpret_cast<const std::byte*>(records);
    REQUIRE(ring.put(begin, begin + sizeof records) == begin + sizeof records);
    // Somebody changes the word before the n-th of them when all were looked at.
    auto copy = [&](std::size_t n, std::uint64_t change) {
        std::vector<std::byte> copied;
        REQUIRE(ring.has_records(3));
        return ring.copy(3, sizeof records, [&](const std::byte* data, std::size_t size) {
            auto* word = reinterpret_cast<std::uint64_t*>(memory.data()) + 2 * n;
            *word ^= change;
            copied.assign(data, data + size);
            *word ^= change;
            return copied.data();
        });
    };
    for (std::size_t n = 0; n < 3; ++n)
        for (std::uint64_t change : {8u, 24u, 1u, 0x80000000u})
            CHECK_THROWS_AS(copy(n, change), DamagedError);
    CHECK(copy(0, 0) == 3);
}

}  // namespace scribble_word_test
