// What is left of a queue when a process is killed after each single instruction of put or get, and
// at random moments.
#include <random>

#include <catch2/catch.hpp>

#include <sidestep/queue.hpp>
#include <sidestep/sync.hpp>

#include "processes.hpp"

namespace queue_kill_test {

using sidestep::Queue;
using namespace std::chrono_literals;

namespace {

// A queue, at the start of its ring or just before its end.
Queue<int> queue_at(bool end_of_ring, std::int64_t bound) {
    Queue<int> queue({.max_items = bound, .max_bytes = 4096});
    if (end_of_ring) {
        for (int i = 0; i < 255; ++i) {  // records of 16 bytes: the next but one wraps
            queue.put(0);
            (void)queue.get();
        }
    }
    return queue;
}

}  // namespace

TEST_CASE("kill at every instruction of put: whole or not at all", "[ipc][queue][kill]") {
    bool end_of_ring = GENERATE(false, true);
    Queue<int> queue = queue_at(end_of_ring, 4);
    auto warm_up = [&] {
        Queue<int> other;
        other.put(1);
    };
    int puts = 0;
    unsigned steps = test::kill_at_every_instruction(
        warm_up, [&] { queue.put(42); },
        [&](unsigned k) {
            INFO("killed after instruction " << k);
            std::size_t size = queue.size();
            REQUIRE(size <= 1);
            REQUIRE(queue.put_for(43, test::kPatience));
            if (size == 1) REQUIRE(queue.get_for(test::kPatience) == 42);
            puts += size == 1;
            REQUIRE(queue.get_for(test::kPatience) == 43);
            REQUIRE(queue.empty());
        });
    CHECK(puts > 0);
    CHECK(steps > 50);
}

TEST_CASE("kill at every instruction of get: taken or still there", "[ipc][queue][kill]") {
    bool end_of_ring = GENERATE(false, true);
    Queue<int> queue = queue_at(end_of_ring, 4);
    auto warm_up = [&] {
        Queue<int> other;
        other.put(1);
        (void)other.get();
    };
    queue.put(1);
    queue.put(2);
    int expected = 1, taken = 0;
    unsigned steps = test::kill_at_every_instruction(
        warm_up, [&] { (void)queue.get(); },
        [&](unsigned k) {
            INFO("killed after instruction " << k);
            std::size_t size = queue.size();
            REQUIRE((size == 1 || size == 2));
            if (size == 1) {
                ++taken;
                ++expected;
                queue.put(expected + 1);
            }
            REQUIRE(queue.get_for(test::kPatience) == expected);
            ++expected;
            REQUIRE(queue.put_for(expected + 1, test::kPatience));
        });
    CHECK(taken > 0);
    CHECK(steps > 50);
}

TEST_CASE("kill at every instruction of put and get while another waits", "[ipc][queue][kill]") {
    Queue<int> queue({.max_items = 1, .max_bytes = 4096});
    bool getting = GENERATE(false, true);
    if (getting) queue.put(1);
    std::unique_ptr<test::Child> other;
    auto spawn_waiter = [&] {
        other = std::make_unique<test::Child>([&] {
            if (getting) return queue.put_for(2, test::kPatience) ? 0 : 1;
            return queue.get_for(test::kPatience) ? 0 : 1;
        });
    };
    auto operation = [&] {
        if (getting)
            (void)queue.get();
        else
            queue.put(3);
    };
    auto warm_up = [&] {
        (void)queue.full();
        sidestep::Event().set();
        (void)sidestep::Lock().try_lock();
    };
    spawn_waiter();
    test::kill_at_every_instruction(warm_up, operation, [&](unsigned k) {
        INFO("killed after instruction " << k);
        // If the killed one did nothing, its part is done here.
        if (getting)
            (void)queue.get_for(1ms);
        else
            (void)queue.put_for(3, 1ms);
        REQUIRE(other->wait() == 0);
        while (queue.try_get()) {
        }
        if (getting) queue.put(1);
        spawn_waiter();
    });
    other->kill();
}

TEST_CASE("producers and consumers that are killed at random lose nothing else",
          "[ipc][queue][kill][torture]") {
    unsigned seed = Catch::rngSeed() != 0 ? Catch::rngSeed() : std::random_device{}();
    INFO("seed " << seed);
    std::minstd_rand random(seed);
    struct Ledger {
        std::atomic<long> acknowledged{0}, received{0}, duplicates{0}, corrupt{0};
        std::atomic<unsigned char> seen[1 << 22];
        std::atomic<std::uint32_t> next{0}, allowed{0};
    };
    test::SharedPage<Ledger> ledger;
    constexpr std::uint32_t kMost = 1 << 22;
    constexpr int kKills = 400;
    Queue<std::vector<std::uint32_t>> queue({.max_items = 64, .max_bytes = 64 << 10});
    auto produce = [&] {
        for (std::uint32_t i = 0;; ++i) {
            // Each kill has its share of the numbers: a test that waits for a CPU would run out.
            std::uint32_t number = ledger->next++;
            if (!test::eventually([&] { return number < ledger->allowed; })) return;
            queue.put(std::vector<std::uint32_t>(1 + i % 50, number));
            ++ledger->acknowledged;
        }
    };
    auto consume = [&] {
        for (;;) {
            std::vector<std::uint32_t> item = queue.get();
            for (std::uint32_t word : item)
                if (word != item[0]) ++ledger->corrupt;
            if (ledger->seen[item[0]]++ != 0) ++ledger->duplicates;
            ++ledger->received;
        }
    };
    test::Child living_producer(produce), living_consumer(consume);
    std::vector<std::unique_ptr<test::Child>> victims(4);
    auto longest = 0ms;
    for (int i = 0; i < kKills; ++i) {
        auto& victim = victims[random() % victims.size()];
        if (victim) victim->kill();
        bool producer = random() % 2 == 0;
        victim = producer ? std::make_unique<test::Child>(produce)
                          : std::make_unique<test::Child>(consume);
        ledger->allowed += kMost / kKills;
        long before = ledger->received;
        CAPTURE(i, ledger->next, ledger->allowed);
        auto begin = std::chrono::steady_clock::now();
        REQUIRE(test::eventually([&] { return ledger->received > before + 50; }));
        longest = std::max(longest, std::chrono::duration_cast<std::chrono::milliseconds>(
                                        std::chrono::steady_clock::now() - begin));
    }
    for (auto& victim : victims)
        if (victim) victim->kill();
    living_producer.kill();
    REQUIRE(test::eventually([&] { return queue.empty(); }));
    living_consumer.kill();
    CHECK(ledger->duplicates == 0);
    CHECK(ledger->corrupt == 0);
    // Lost is at most what a killed consumer had just taken.
    CHECK(ledger->acknowledged - ledger->received <= kKills + 8);
    UNSCOPED_INFO("longest stall " << longest.count() << " ms");
    CHECK(longest < 20s);
}

}  // namespace queue_kill_test
