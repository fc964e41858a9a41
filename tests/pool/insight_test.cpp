// What a pool notes for its statistics. White box: the class alone, without tasks and workers.
#include <chrono>

#include <catch2/catch.hpp>

#include "insight/insight.hpp"

namespace insight_test {

namespace mp = sidestep;
using namespace sidestep::detail;
using namespace std::chrono_literals;

namespace {

constexpr TaskEntry kEntry{TaskEntry::kMagic, 1, nullptr, "T = a_test"};

TaskFacts task(std::uint64_t number) { return {number, 0, 0, 1, &kEntry, nullptr, nullptr}; }
RunFacts run(std::uint32_t worker, std::uint64_t duration_ns, const char* outcome = "value") {
    return {worker, worker, 4711, 1000, duration_ns, outcome};
}

}  // namespace

TEST_CASE("statistics show what was noted", "[pool][rooms][insight]") {
    PoolMutex mutex;
    Insight insight("worker");
    PoolLock lock(mutex);
    insight.note_wait(500);
    insight.note_run(task(1), run(0, 2'000));
    insight.note_run(task(2), run(1, 3'000, "error"));
    insight.note_retry();
    insight.note_worker_started(0, 4711);
    insight.note_worker_ended(0, 4711, true, {});
    insight.note_worker_ended(1, 4712, false, {});
    mp::PoolStats stats;
    auto slowest = insight.snapshot(stats);
    CHECK(stats.wait.count() == 1);
    CHECK(stats.run.count() == 2);
    CHECK(stats.retried == 1);
    CHECK(stats.worker_deaths == 1);
    REQUIRE(slowest.size() == 2);
    CHECK(slowest[0].number == 2);
    CHECK(slowest[0].worker == 1);
    CHECK(insight.named(slowest[0]).duration == 3us);
}

TEST_CASE("of many runs the slowest ten are kept, the slowest first", "[pool][rooms][insight]") {
    PoolMutex mutex;
    Insight insight("worker");
    PoolLock lock(mutex);
    for (std::uint64_t n = 1; n <= 100; ++n) insight.note_run(task(n), run(0, n * 37 % 101));
    mp::PoolStats stats;
    auto slowest = insight.snapshot(stats);
    REQUIRE(slowest.size() == SlowTasks::kMost);
    for (std::size_t i = 0; i < slowest.size(); ++i)
        CHECK(slowest[i].duration == std::chrono::nanoseconds(100 - i));
}

}  // namespace insight_test
