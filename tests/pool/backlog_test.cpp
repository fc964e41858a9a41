// What waits until a worker can have it. White box: the class alone, with tasks of a pool that was
// never started.
#include <chrono>
#include <vector>

#include <catch2/catch.hpp>

#include "dispatch/backlog.hpp"
#include "life/timers.hpp"
#include "room_support.hpp"

namespace backlog_test {

using namespace sidestep::detail;
using test::Tasks;
using namespace std::chrono_literals;

namespace {

const Timers::Time kNow = Timers::Time(1h);

}  // namespace

TEST_CASE("the higher priority is begun first, then what came first", "[pool][rooms][backlog]") {
    Tasks tasks;
    Backlog backlog(2);
    PoolTask* first = tasks.make();
    PoolTask* second = tasks.make();
    PoolTask* urgent = tasks.make({.priority = 1});
    backlog.note_priority(*first);
    CHECK_FALSE(backlog.has_priorities());
    backlog.note_priority(*urgent);
    CHECK(backlog.has_priorities());
    for (PoolTask* task : {first, second, urgent}) backlog.push(task);
    CHECK(backlog.size() == 3);
    CHECK(backlog.pop() == urgent);
    CHECK(backlog.pop() == first);
    CHECK(backlog.pop() == second);
    CHECK(backlog.empty());
}

TEST_CASE("what was in a ring comes before what was never begun", "[pool][rooms][backlog]") {
    Tasks tasks;
    Backlog backlog(2);
    PoolTask* waiting = tasks.make();
    PoolTask* taken_back = tasks.make();
    backlog.push(waiting);
    backlog.push_back(taken_back);
    CHECK(backlog.pop() == taken_back);
    CHECK(backlog.pop() == waiting);
}

TEST_CASE("tasks with a key wait for one worker", "[pool][rooms][backlog]") {
    Tasks tasks;
    Backlog backlog(3);
    PoolTask* of_any = tasks.make();
    PoolTask* of_one = tasks.make({.key = 7});  // 7 % 3
    CHECK(backlog.list_of(*of_any) == Backlog::kAnyWorker);
    CHECK(backlog.list_of(*of_one) == 1);
    backlog.push(of_one);
    CHECK(backlog.empty());
    CHECK(backlog.empty(0));
    CHECK(backlog.size(1) == 1);
    backlog.remove(*of_one);
    CHECK(backlog.empty(1));
}

TEST_CASE("a task that pauses waits in no list until its pause is over", "[pool][rooms][backlog]") {
    Tasks tasks;
    Backlog backlog(1);
    PoolTask* later = tasks.make();
    PoolTask* sooner = tasks.make();
    PoolTask* cancelled = tasks.make();
    CHECK_FALSE(backlog.first_pause_ends());
    backlog.pause(later, kNow + 2s);
    backlog.pause(sooner, kNow + 1s);
    backlog.pause(cancelled, kNow + 1ms);
    CHECK(backlog.first_pause_ends() == kNow + 1ms);
    backlog.remove(*cancelled);
    CHECK(backlog.empty());
    CHECK(backlog.pop_rested(kNow) == nullptr);
    CHECK(backlog.pop_rested(kNow + 1s) == sooner);
    CHECK(backlog.pop_rested(kNow + 1s) == nullptr);
    CHECK(backlog.pop_rested(kNow + 2s) == later);
    CHECK_FALSE(backlog.first_pause_ends());
}

TEST_CASE("all that waits can be gone through, and emptied", "[pool][rooms][backlog]") {
    Tasks tasks;
    Backlog backlog(2);
    std::vector<PoolTask*> all = {tasks.make(), tasks.make({.key = 1}), tasks.make()};
    backlog.push(all[0]);
    backlog.push(all[1]);
    backlog.pause(all[2], kNow);
    std::vector<PoolTask*> seen;
    backlog.for_each([&](PoolTask* task) { seen.push_back(task); });
    CHECK(seen == all);
    for (PoolTask* task : all) CHECK(backlog.pop_anything() == task);
    CHECK(backlog.pop_anything() == nullptr);
}

TEST_CASE("with another number of workers a key waits for its old worker's tasks",
          "[pool][rooms][backlog]") {
    Tasks tasks;
    Backlog backlog(2);
    PoolTask* task = tasks.make({.key = 5});  // 5 % 2, then 5 % 3
    backlog.push(task);
    CHECK_FALSE(backlog.keys_moved());
    backlog.resize(3);
    CHECK(backlog.workers() == 3);
    CHECK(backlog.keys_moved());
    CHECK(backlog.empty(1));
    CHECK(backlog.size(2) == 1);
    backlog.hold_none();
    backlog.hold_behind(0, 1);  // no key
    backlog.hold_behind(5, 2);  // its worker has it
    CHECK_FALSE(backlog.keys_moved());
    CHECK_FALSE(backlog.is_held(2));
    backlog.hold_behind(5, 1);  // the old one still has it
    CHECK(backlog.is_held(2));
    CHECK_FALSE(backlog.is_held(1));
    backlog.hold_none();
    CHECK_FALSE(backlog.is_held(2));
    CHECK(backlog.pop(2) == task);
}

}  // namespace backlog_test
