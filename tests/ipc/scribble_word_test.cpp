// Single words that somebody writes over: with a value that the word could have, at another time.
// Each is found. (What is written at random: scribble_test.cpp.)
#include <chrono>
#include <cstring>
#include <stdexcept>

#include <catch2/catch.hpp>

#include <sidestep/queue.hpp>

#include "scribble.hpp"
#include "support.hpp"
#include "sync/event_count.hpp"
#include "sync/owner_lock.hpp"

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
