// The dispatcher, the policies and the recovery of chunks, without a process: lanes whose workers
// are the test. White box.
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <set>
#include <vector>

#include <catch2/catch.hpp>

#include "fake_lane.hpp"

namespace fake_lane_test {

using namespace sidestep::detail;
using namespace std::chrono_literals;
using test::FakeLane;
using test::FakePool;

namespace {

// The lane's worker does one task to its end.
void work(FakePool& pool, FakeLane& lane, bool with_value = true) {
    Hold hold(pool.mutex, pool);
    lane.begin();
    lane.end(with_value);
    (void)lane.drain(hold);
    pool.rooms.dispatcher.refill(hold);
}

void finish_all(FakePool& pool) {
    for (int round = 0; round < 100'000; ++round) {
        bool any = false;
        for (FakeLane& lane : pool.lanes) {
            if (lane.load.in_flight == 0) continue;
            work(pool, lane);
            any = true;
        }
        if (!any) return;
    }
    FAIL("the lanes have no end of tasks");
}

// What waits behind the front.
PoolTask* second(FakePool& pool, const FakeLane& lane) {
    PoolLock lock(pool.mutex);
    return lane.task_at(1);
}

// The supervisor looks so often, while these lanes do nothing.
void look(FakePool& pool, std::vector<FakeLane*> stuck, int times = 6) {
    for (int i = 0; i < times; ++i) {
        Hold hold(pool.mutex, pool);
        for (FakeLane* lane : stuck) lane->be_stuck();
        pool.rooms.dispatcher.rebalance(false, hold);
        pool.rooms.dispatcher.look_for_stuck(hold);
        pool.rooms.dispatcher.refill(hold);
    }
}

}  // namespace

TEST_CASE("a lane gets no more than it holds, and all of it in order", "[pool][rooms][fake_lane]") {
    FakePool pool(1);
    FakeLane& lane = pool.lanes[0];
    std::vector<PoolTask*> tasks;
    for (int i = 0; i < 5000; ++i) tasks.push_back(pool.submit());
    CHECK(lane.load.in_flight <= FakeLane::kMost);
    for (PoolTask* task : tasks) {
        REQUIRE(lane.front() == task);
        work(pool, lane);
        REQUIRE(task->done());
    }
    CHECK(lane.most_at_once <= FakeLane::kMost);
    CHECK(lane.flushes > 0);
    CHECK(tasks[0]->bytes.size() == 300);
}

TEST_CASE("a flood over several lanes ends, each task once", "[pool][rooms][fake_lane]") {
    FakePool pool(3);
    std::vector<PoolTask*> tasks;
    for (int i = 0; i < 20'000; ++i) tasks.push_back(pool.submit());
    finish_all(pool);
    CHECK(std::all_of(tasks.begin(), tasks.end(), [](PoolTask* t) { return t->done(); }));
    PoolLock lock(pool.mutex);
    CHECK(pool.rooms.task_end.completed() == tasks.size());
    CHECK(pool.rooms.task_end.failed() == 0);
}

TEST_CASE("what a dead worker had not begun goes to others, before what came later",
          "[pool][rooms][fake_lane]") {
    FakePool pool(2);
    FakeLane& dies = pool.lanes[0];
    FakeLane& lives = pool.lanes[1];
    std::vector<PoolTask*> tasks;
    for (int i = 0; i < 8; ++i) tasks.push_back(pool.submit());
    {
        Hold hold(pool.mutex, pool);
        dies.begin();
        std::vector<PoolTask*> had;
        for (std::uint32_t i = 0; i < dies.load.in_flight; ++i) had.push_back(dies.task_at(i));
        REQUIRE(had.size() >= 2);
        dies.die(hold);
        CHECK(had[0]->done());
        CHECK_THROWS_AS(had[0]->result(), sidestep::WorkerLost);
        for (std::size_t i = 1; i < had.size(); ++i)
            CHECK(had[i]->place == PoolTask::Place::backlog);
        CHECK(pool.rooms.dispatcher.backlog().pop() == had[1]);
        pool.rooms.dispatcher.backlog().push_back(had[1]);
    }
    finish_all(pool);
    CHECK(lives.load.in_flight == 0);
    CHECK(std::all_of(tasks.begin(), tasks.end(), [](PoolTask* t) { return t->done(); }));
}

TEST_CASE("a lane that has nothing to do gets the oldest that waits behind others",
          "[pool][rooms][fake_lane]") {
    FakePool pool(2);
    FakeLane& full = pool.lanes[0];
    FakeLane& idle = pool.lanes[1];
    {
        Hold hold(pool.mutex, pool);
        idle.die(hold);
    }
    std::vector<PoolTask*> tasks;
    for (int i = 0; i < 2; ++i) tasks.push_back(pool.submit());
    Hold hold(pool.mutex, pool);
    full.begin();
    REQUIRE(full.front() == tasks[0]);
    full.be_stuck();
    idle.come();
    pool.rooms.dispatcher.rebalance(false, hold);
    CHECK(idle.front() == tasks[1]);
    CHECK(full.front() == tasks[0]);
    hold.unlock();
    finish_all(pool);
    hold.lock();
    CHECK(pool.rooms.task_end.outstanding() == 0);
}

TEST_CASE("what waits for a worker that stands still is not put behind a task that runs",
          "[pool][rooms][fake_lane]") {
    FakePool pool(2);
    FakeLane& still = pool.lanes[0];
    FakeLane& other = pool.lanes[1];
    std::vector<PoolTask*> tasks;
    for (int i = 0; i < 8; ++i) tasks.push_back(pool.submit());
    REQUIRE(still.front() == tasks[0]);
    REQUIRE(other.front() == tasks[1]);
    const PoolTask* next = second(pool, other);
    work(pool, other);
    other.begin();
    REQUIRE(other.front() == next);
    look(pool, {&still});
    SECTION("its own worker goes on") {
        CHECK(still.front() == tasks[0]);
        work(pool, still);
        CHECK(tasks[0]->done());
    }
    SECTION("nothing is given to who has something to do; when he has nothing, he gets it") {
        while (other.load.in_flight > 1) work(pool, other);
        REQUIRE(other.front());
        CHECK(other.front()->serial > tasks[0]->serial);
        work(pool, other);
        CHECK(other.front() == tasks[0]);
        CHECK(still.front() != tasks[0]);
    }
    SECTION("what comes new waits, too") {
        const std::uint32_t had = other.load.in_flight;
        PoolTask* last = pool.submit();
        CHECK(other.load.in_flight == had);
        CHECK(last->place == PoolTask::Place::backlog);
    }
    finish_all(pool);
    CHECK(std::all_of(tasks.begin(), tasks.end(), [](PoolTask* t) { return t->done(); }));
}

TEST_CASE("what is more important overtakes what waits where nothing moves, too",
          "[pool][rooms][fake_lane]") {
    FakePool pool(1);
    FakeLane& lane = pool.lanes[0];
    for (int i = 0; i < 3; ++i) (void)pool.submit();
    REQUIRE(lane.load.in_flight == 2);
    lane.begin();
    look(pool, {&lane});
    PoolTask* important = pool.submit({.priority = 5});
    work(pool, lane);
    CHECK(lane.front() == important);
    finish_all(pool);
}

TEST_CASE("a worker that was taken for stopped gets what nobody else can take",
          "[pool][rooms][fake_lane]") {
    FakePool pool(2);
    FakeLane& well_again = pool.lanes[0];
    FakeLane& stands_still = pool.lanes[1];
    PoolTask* task = pool.submit();
    REQUIRE(well_again.front() == task);
    look(pool, {&well_again});
    REQUIRE(stands_still.front() == task);
    CHECK(well_again.load.unresponsive);
    look(pool, {&stands_still});
    REQUIRE(well_again.front() == task);
    work(pool, well_again);
    CHECK(task->done());
    CHECK_FALSE(well_again.load.unresponsive);
}

TEST_CASE("a worker that has just come begins with the oldest task, wherever it waits",
          "[pool][rooms][fake_lane]") {
    FakePool pool(2);
    FakeLane& runs = pool.lanes[0];
    FakeLane& comes = pool.lanes[1];
    {
        Hold hold(pool.mutex, pool);
        comes.die(hold);
        for (int i = 0; i < 1000; ++i) pool.rooms.dispatcher.learn(100);  // short, by the mean
    }
    std::vector<PoolTask*> tasks;
    for (int i = 0; i < 8; ++i) tasks.push_back(pool.submit());
    runs.begin();
    REQUIRE(second(pool, runs) == tasks[1]);
    {
        Hold hold(pool.mutex, pool);
        comes.come();
        pool.rooms.dispatcher.welcome(comes, hold);
        pool.rooms.dispatcher.refill(hold);
    }
    CHECK(comes.front() == tasks[1]);
    finish_all(pool);
}

TEST_CASE("a lane that has done all it had begins with the oldest task, wherever it waits",
          "[pool][rooms][fake_lane]") {
    FakePool pool(2);
    FakeLane& runs = pool.lanes[0];
    FakeLane& done = pool.lanes[1];
    std::vector<PoolTask*> tasks;
    for (int i = 0; i < 8; ++i) tasks.push_back(pool.submit());
    runs.begin();
    const PoolTask* behind = second(pool, runs);
    {
        Hold hold(pool.mutex, pool);
        while (done.front()) {  // before anybody looks
            done.begin();
            done.end(true);
            (void)done.drain(hold);
        }
        pool.rooms.dispatcher.refill(hold);
    }
    REQUIRE(tasks.back()->place == PoolTask::Place::backlog);
    CHECK(done.front() == behind);
    finish_all(pool);
}

TEST_CASE("what a worker hands back is not begun after younger tasks", "[pool][rooms][fake_lane]") {
    FakePool pool(3);
    FakeLane& dies = pool.lanes[0];
    std::vector<PoolTask*> tasks;
    for (int i = 0; i < 6; ++i) tasks.push_back(pool.submit());
    for (FakeLane& lane : pool.lanes) REQUIRE(lane.load.in_flight == 2);
    for (FakeLane& lane : pool.lanes) lane.begin();
    const PoolTask* back = second(pool, dies);
    {
        Hold hold(pool.mutex, pool);
        dies.die(hold);
        pool.rooms.dispatcher.refill(hold);
    }
    // The others run what is older than that, and then what is younger.
    FakeLane& other = pool.lanes[1];
    const PoolTask* younger = second(pool, other);
    REQUIRE(younger->serial > back->serial);
    work(pool, other);
    other.begin();
    REQUIRE(other.front() == younger);
    CHECK(other.load.in_flight == 1);
    work(pool, other);
    CHECK(other.front() == back);
    finish_all(pool);
}

TEST_CASE("one tiny task whose worker lost its CPU does not make tasks long ones",
          "[pool][rooms][fake_lane]") {
    FakePool pool(1);
    Hold hold(pool.mutex, pool);
    Dispatcher& dispatcher = pool.rooms.dispatcher;
    for (int i = 0; i < 1000; ++i) dispatcher.learn(100);
    const std::uint64_t tiny = dispatcher.task_ns();
    REQUIRE(tiny < 200);
    dispatcher.learn(4'000'000);
    CHECK(dispatcher.task_ns() == tiny);
    SECTION("two of them do") {
        dispatcher.learn(4'000'000);
        CHECK(dispatcher.task_ns() >= 1'000'000);
    }
    SECTION("so does what is longer, but not by as much") {
        dispatcher.learn(10 * tiny);
        CHECK(dispatcher.task_ns() >= 5 * tiny);
    }
    SECTION("later on it is the first again") {
        for (int i = 0; i < 1000; ++i) dispatcher.learn(100);
        dispatcher.learn(4'000'000);
        CHECK(dispatcher.task_ns() < 200);
    }
}

TEST_CASE("a lane that takes nothing now keeps no task from the others",
          "[pool][rooms][fake_lane]") {
    FakePool pool(2);
    pool.lanes[0].refuses = true;
    PoolTask* refused = pool.submit();
    CHECK(refused->place == PoolTask::Place::backlog);
    {
        Hold hold(pool.mutex, pool);
        pool.rooms.dispatcher.refill(hold);
        CHECK(pool.lanes[1].front() == refused);
        CHECK(pool.rooms.timers.is_set(Timers::Purpose::rings));  // the supervisor looks again
    }
    finish_all(pool);
    CHECK(refused->done());
}

TEST_CASE("a task that is stopped is done at once, and its worker goes up the ladder",
          "[pool][rooms][fake_lane]") {
    FakePool pool(1);
    FakeLane& lane = pool.lanes[0];
    PoolTask* task = pool.submit();
    PoolTask* behind = pool.submit();
    Stopper& stopper = pool.policies.stopper;
    Hold hold(pool.mutex, pool);
    CHECK(stopper.cancel(*task, true, hold));
    CHECK(task->done());  // it had not begun
    lane.begin();
    REQUIRE(lane.front() == behind);
    CHECK_FALSE(stopper.cancel(*behind, false, hold));
    CHECK(stopper.cancel(*behind, true, hold));
    CHECK(behind->done());
    CHECK_FALSE(stopper.is_idle());
    REQUIRE(lane.stopping);
    auto now = std::chrono::steady_clock::now();
    stopper.climb(lane, now, hold);
    CHECK(lane.signals.empty());  // it has been asked
    now += pool.rooms.options.stop_grace.time() + 1s;
    stopper.climb(lane, now, hold);
    stopper.climb(lane, now, hold);
    CHECK(lane.signals == std::vector<int>{SIGTERM});
    stopper.climb(lane, now + pool.rooms.options.terminate_grace.time() + 1s, hold);
    CHECK(lane.signals == std::vector<int>{SIGTERM, SIGKILL});
    hold.unlock();
    PoolTask* later = pool.submit();
    CHECK(later->place == PoolTask::Place::backlog);  // the lane takes nothing until it is through
    hold.lock();
    lane.die(hold);
    CHECK(stopper.is_idle());
    lane.come();
    pool.rooms.dispatcher.refill(hold);
    CHECK(lane.front() == later);
    hold.unlock();
    finish_all(pool);
    hold.lock();
    CHECK(pool.rooms.task_end.cancelled() == 2);
    CHECK(pool.rooms.task_end.outstanding() == 0);
}

TEST_CASE("a task is late by the lane's word, and only when it runs", "[pool][rooms][fake_lane]") {
    FakePool pool(1);
    FakeLane& lane = pool.lanes[0];
    PoolTask* task = pool.submit({.timeout = 1h});
    PoolTask* waits = pool.submit({.timeout = 1ns});
    Limits& limits = pool.policies.limits;
    Supervising here;
    Hold hold(pool.mutex, pool);
    pool.rooms.timers.set(Timers::Purpose::policies, {});  // it is time to look
    limits.enforce(hold);
    CHECK_FALSE(task->done());
    CHECK_FALSE(waits->done());  // it has not begun
    lane.begin();
    lane.begun = std::chrono::steady_clock::now() - 2h;
    pool.rooms.timers.set(Timers::Purpose::policies, {});
    limits.enforce(hold);
    CHECK(task->done());
    CHECK_THROWS_AS(task->result(), sidestep::TaskTimeout);
    CHECK(waits->place == PoolTask::Place::backlog);
    lane.end(true);
    (void)lane.drain(hold);
    pool.rooms.dispatcher.refill(hold);
    hold.unlock();
    finish_all(pool);
    CHECK(waits->done());
}

TEST_CASE("what a chunk had finished is kept, one item is blamed, the rest runs on",
          "[pool][rooms][fake_lane]") {
    bool retried = GENERATE(false, true);
    FakePool pool(1);
    FakeLane& lane = pool.lanes[0];
    sidestep::TaskOptions options;
    if (retried) options.retry = {.max_attempts = 2, .max_crashes = 2};
    PoolTask* chunk = pool.submit(options, 10);
    Hold hold(pool.mutex, pool);
    lane.begin();
    lane.finished_items = 4;
    lane.die(hold);
    REQUIRE(chunk->done());
    CHECK(chunk->items_done() == 4);
    REQUIRE(chunk->split());
    const PoolTask::Split& split = *chunk->split();
    REQUIRE(split.rest);
    CHECK(split.rest->items().begin == 5);
    CHECK(split.rest->items().end == 10);
    CHECK(bool(split.again) == retried);
    CHECK(bool(split.error) == !retried);
    if (retried) {
        CHECK(split.again->items().begin == 4);
        CHECK(split.again->failures.crashes == 1);
    }
    lane.come();
    lane.finished_items.reset();
    pool.rooms.dispatcher.refill(hold);
    hold.unlock();
    finish_all(pool);
    CHECK(split.rest->done());
    if (retried) CHECK(split.again->done());
}

TEST_CASE("of a chunk that is stopped, what comes of that does not count",
          "[pool][rooms][fake_lane]") {
    FakePool pool(1);
    FakeLane& lane = pool.lanes[0];
    PoolTask* chunk = pool.submit({.timeout = 1h}, 10);
    Stopper& stopper = pool.policies.stopper;
    auto error = std::make_exception_ptr(sidestep::TaskTimeout({}));
    Hold hold(pool.mutex, pool);
    lane.begin();
    lane.finished_items = 4;
    CHECK_FALSE(stopper.stop(lane, FailureKind::timeout, error, hold, 3));  // that one has ended
    CHECK_FALSE(chunk->done());
    CHECK(stopper.stop(lane, FailureKind::timeout, error, hold, 4));
    REQUIRE(chunk->done());
    CHECK(chunk->items_done() == 4);
    REQUIRE(chunk->split());
    REQUIRE(chunk->split()->rest);
    CHECK(chunk->split()->rest->items().begin == 5);
    lane.finished_items.reset();
    lane.die(hold);
    lane.come();
    pool.rooms.dispatcher.refill(hold);
    hold.unlock();
    finish_all(pool);
}

TEST_CASE("a chunk of which nobody knows how far it was fails as a whole",
          "[pool][rooms][fake_lane]") {
    FakePool pool(1);
    PoolTask* chunk = pool.submit({}, 10);
    Hold hold(pool.mutex, pool);
    pool.lanes[0].begin();
    pool.lanes[0].die(hold);
    CHECK(chunk->done());
    CHECK_FALSE(chunk->split());
    CHECK_THROWS_AS(chunk->result(), sidestep::WorkerLost);
}

TEST_CASE("a pool that breaks ends what waits, and what lanes have when they give it back",
          "[pool][rooms][fake_lane]") {
    FakePool pool(1);
    FakeLane& lane = pool.lanes[0];
    std::vector<PoolTask*> tasks;
    for (std::uint32_t i = 0; i < FakeLane::kMost + 2; ++i) tasks.push_back(pool.submit());
    Hold hold(pool.mutex, pool);
    lane.begin();
    pool.policies.end.break_down(std::make_exception_ptr(sidestep::BrokenPool("it broke")), hold);
    CHECK(tasks.back()->done());
    CHECK_FALSE(tasks.front()->done());
    CHECK(lane.signals == std::vector<int>{SIGKILL});
    lane.die(hold);
    for (PoolTask* task : tasks) {
        REQUIRE(task->done());
        CHECK_THROWS_WITH(task->result(), "it broke");
    }
}

}  // namespace fake_lane_test
