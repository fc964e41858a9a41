// Random submissions, ends, deaths, refusals, stops and cancellations on lanes whose workers are
// the test, against a sequential model of each task: it ends exactly once, in the way that its
// options and what befell it say, and tasks that belong together begin in their order.
//
// FAKE_LANE_SEED repeats a run; FAKE_LANE_ROUNDS makes it long. White box.
#include <cstdlib>
#include <map>
#include <random>
#include <set>
#include <vector>

#include <catch2/catch.hpp>

#include "fake_lane.hpp"

namespace fake_lane_model_test {

using namespace sidestep::detail;
using test::FakeLane;
using test::FakePool;

namespace {

unsigned from_environment(const char* name, unsigned otherwise) {
    const char* text = std::getenv(name);
    return text ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : otherwise;
}

// What is known of a task without the pool.
struct Model {
    enum class End { none, value, error, lost, timeout, cancelled };
    const sidestep::TaskOptions options;
    End end = End::none;
    unsigned attempts = 0, crashes = 0;  // that failed

    void fail(End why) {
        bool again = attempts + 1 < options.retry.max_attempts &&
                     (why != End::lost || crashes + 1 < options.retry.max_crashes);
        ++attempts;
        crashes += why == End::lost;
        if (!again) end = why;
    }
};

class Run {
  public:
    explicit Run(unsigned seed) : random_(seed), pool_(1 + seed % 3) {}

    void step() {
        FakeLane& lane = pool_.lanes[roll(pool_.lanes.size())];
        switch (roll(12)) {
            case 0:
            case 1:
            case 2:
            case 3:
                return submit();
            case 4:
            case 5:
                return begin(lane);
            case 6:
                return end(lane, roll(3) > 0);
            case 7:
                return roll(4) == 0 ? die(lane) : begin(lane);
            case 8:
                return stop(lane);
            case 9:
                return cancel();
            case 10:
                lane.refuses = roll(3) == 0;
                if (!lane.refuses && lane.load.works && !lane.stopping)
                    lane.load.most = FakeLane::kMost;
                return;
            case 11:
                return look();
        }
    }
    // Each task that is not done is in one place.
    void check_places() {
        Hold hold(pool_.mutex, pool_);
        std::set<const PoolTask*> seen;
        pool_.rooms.dispatcher.for_each_task([&](PoolTask* task) {
            CHECK(seen.insert(task).second);
            CHECK_FALSE(task->done());
        });
        REQUIRE(seen.size() == pool_.rooms.task_end.outstanding());
        for (const FakeLane& lane : pool_.lanes) REQUIRE(lane.most_at_once <= FakeLane::kMost);
    }
    void finish() {
        for (int round = 0; round < 10'000; ++round) {
            {
                PoolLock lock(pool_.mutex);
                if (pool_.rooms.task_end.outstanding() == 0) break;
            }
            for (FakeLane& lane : pool_.lanes) {
                lane.refuses = false;
                if (lane.load.works && !lane.stopping) lane.load.most = FakeLane::kMost;
                if (lane.is_dead()) lane.come();
                refill();
                begin(lane);
                end(lane, true);
            }
        }
        for (const auto& [task, model] : models_) check(*task, model);
    }

  private:
    std::size_t roll(std::size_t sides) {
        return std::uniform_int_distribution<std::size_t>(0, sides - 1)(random_);
    }
    void refill() {
        Hold hold(pool_.mutex, pool_);
        pool_.rooms.dispatcher.refill(hold);
    }
    void submit() {
        sidestep::TaskOptions options;
        if (roll(2) == 0) options.key = 1 + roll(5);
        if (roll(8) == 0) options.priority = static_cast<int>(roll(3)) - 1;
        if (roll(3) == 0)
            options.retry = {.max_attempts = static_cast<unsigned>(1 + roll(3)), .max_crashes = 2};
        PoolTask* task = pool_.submit(options);
        models_.emplace(task, Model{options});
    }
    void begin(FakeLane& lane) {
        PoolTask* task = lane.front();
        if (!task || lane.runs() || lane.has_ended()) return;
        lane.begin();
        const Model& model = models_.at(task);
        // Among those with a key, which have a lane of their own, and were not begun before.
        if (model.options.key == 0 || model.attempts > 0) return;
        std::uint64_t& last = last_begun_[{model.options.key, model.options.priority}];
        REQUIRE(last < task->serial);
        last = task->serial;
    }
    void end(FakeLane& lane, bool with_value) {
        if (!lane.runs()) return;
        PoolTask* task = lane.front();
        lane.end(with_value);
        if (task && with_value)
            models_.at(task).end = Model::End::value;
        else if (task)
            models_.at(task).fail(Model::End::error);
        end_of_stopped(lane);
        Hold hold(pool_.mutex, pool_);
        (void)pool_.rooms.dispatcher.drain(false, hold);
    }
    void die(FakeLane& lane) {
        if (lane.is_dead()) return lane.come();
        if (lane.has_ended()) return;
        if (PoolTask* task = lane.runs() ? lane.front() : nullptr)
            models_.at(task).fail(Model::End::lost);
        end_of_stopped(lane);
        Hold hold(pool_.mutex, pool_);
        lane.die(hold);
        pool_.rooms.dispatcher.refill(hold);
    }
    void stop(FakeLane& lane) {
        PoolTask* task = lane.front();
        if (!task || !lane.runs()) return;
        Hold hold(pool_.mutex, pool_);
        auto error = std::make_exception_ptr(sidestep::TaskTimeout({}));
        CHECK(pool_.policies.stopper.stop(lane, FailureKind::timeout, error, hold));
        Model& model = models_.at(task);
        // It is counted when the lane is done with it, if it is to be run again.
        if (model.attempts + 1 >= model.options.retry.max_attempts)
            model.fail(Model::End::timeout);
        else
            stopped_[&lane] = task;
        pool_.rooms.dispatcher.refill(hold);
    }
    void end_of_stopped(FakeLane& lane) {
        auto found = stopped_.find(&lane);
        if (found == stopped_.end()) return;
        Model& model = models_.at(found->second);
        if (model.end == Model::End::none) model.fail(Model::End::timeout);
        stopped_.erase(found);
    }
    void cancel() {
        if (models_.empty()) return;
        auto at = models_.begin();
        std::advance(at,
                     static_cast<std::ptrdiff_t>(roll(std::min<std::size_t>(models_.size(), 64))));
        auto& [task, model] = *at;
        bool running_too = roll(2) == 0;
        Hold hold(pool_.mutex, pool_);
        bool runs = task->place == PoolTask::Place::lane && task->lane->task_at(0) == task &&
                    static_cast<FakeLane*>(task->lane)->runs();
        bool cancels = model.end == Model::End::none && (!runs || running_too);
        bool cancelled = pool_.policies.stopper.cancel(*task, running_too, hold);
        if (cancels) model.end = Model::End::cancelled;
        CHECK(cancelled == (model.end == Model::End::cancelled));
    }
    void look() {
        Hold hold(pool_.mutex, pool_);
        Dispatcher& dispatcher = pool_.rooms.dispatcher;
        for (FakeLane& lane : pool_.lanes) lane.be_stuck();
        dispatcher.rebalance(false, hold);
        dispatcher.look_for_stuck(hold);
        dispatcher.refill(hold);
    }
    static void check(const PoolTask& task, const Model& model) {
        REQUIRE(task.done());
        CHECK(task.cancelled() == (model.end == Model::End::cancelled));
        switch (model.end) {
            case Model::End::none:
                FAIL("the model says that it is not done");
            case Model::End::value:
                CHECK(task.result().size() == 300);
                break;
            case Model::End::error:
                CHECK_THROWS_WITH(task.result(), "it failed");
                break;
            case Model::End::lost:
                CHECK_THROWS_AS(task.result(), sidestep::WorkerLost);
                break;
            case Model::End::timeout:
                CHECK_THROWS_AS(task.result(), sidestep::TaskTimeout);
                break;
            case Model::End::cancelled:
                CHECK_THROWS_AS(task.result(), sidestep::CancelledError);
                break;
        }
    }

    std::mt19937 random_;
    FakePool pool_;
    std::map<PoolTask*, Model> models_;
    std::map<FakeLane*, PoolTask*> stopped_;  // to be run again when its lane is done with it
    std::map<std::pair<std::uint64_t, int>, std::uint64_t> last_begun_;  // number, by key, priority
};

}  // namespace

TEST_CASE("random events on lanes leave each task in one place, and end it once",
          "[pool][rooms][fake_lane]") {
    unsigned seed = from_environment("FAKE_LANE_SEED", std::random_device{}() % 1'000'000);
    unsigned rounds = from_environment("FAKE_LANE_ROUNDS", 20);
    for (unsigned round = 0; round < rounds; ++round) {
        INFO("FAKE_LANE_SEED=" << seed + round << " FAKE_LANE_ROUNDS=1");
        Run run(seed + round);
        for (int i = 0; i < 600; ++i) {
            run.step();
            if (i % 10 == 0) run.check_places();
        }
        run.finish();
        run.check_places();
    }
}

namespace {

// Short tasks first, and then more of them that never end than there are workers. Workers stand
// still for a while, die, and come again.
class Endless {
  public:
    explicit Endless(unsigned seed)
        : random_(seed), pool_(1 + seed % 4), still_(pool_.lanes.size()) {
        if (roll(2) == 0) {
            Hold hold(pool_.mutex, pool_);
            for (int i = 0; i < 1000; ++i) pool_.rooms.dispatcher.learn(100);
        }
        for (std::size_t i = 0, count = roll(10); i < count; ++i) short_.insert(pool_.submit());
        for (int i = 0; i < 20; ++i) (void)pool_.submit();
    }
    void step() {
        const std::size_t which = roll(pool_.lanes.size());
        FakeLane& lane = pool_.lanes[which];
        switch (roll(10)) {
            case 0:
                still_[which] = !still_[which];
                return;
            case 1:
            case 2:
            case 3:
            case 4:
                return look();
            case 5:
                if (roll(4) == 0) return lane.is_dead() ? come(lane) : die(lane);
                return;
            default:
                if (!still_[which]) work(lane);
        }
    }
    void finish() {
        go_on();
        for (const PoolTask* task : short_) CHECK(task->done());
        all_end_ = true;
        go_on();
        PoolLock lock(pool_.mutex);
        REQUIRE(pool_.rooms.task_end.outstanding() == 0);
    }

  private:
    std::size_t roll(std::size_t sides) {
        return std::uniform_int_distribution<std::size_t>(0, sides - 1)(random_);
    }
    void go_on() {
        for (int round = 0; round < 200; ++round) {
            look();
            for (FakeLane& lane : pool_.lanes) {
                if (lane.is_dead()) come(lane);
                work(lane);
            }
        }
    }
    void work(FakeLane& lane) {
        PoolTask* task = lane.front();
        if (!task) return;
        lane.begin();
        if (!all_end_ && !short_.contains(task)) return;
        lane.end(true);
        Hold hold(pool_.mutex, pool_);
        if (roll(3) > 0) return (void)pool_.rooms.dispatcher.drain(false, hold);
        (void)lane.drain(hold);  // and nobody refills it yet, but the worker goes on
        lane.begin();
    }
    void look() {
        Hold hold(pool_.mutex, pool_);
        Dispatcher& dispatcher = pool_.rooms.dispatcher;
        (void)dispatcher.drain(false, hold);
        for (FakeLane& lane : pool_.lanes) lane.be_stuck();
        dispatcher.rebalance(false, hold);
        dispatcher.look_for_stuck(hold);
        dispatcher.refill(hold);
    }
    void die(FakeLane& lane) {
        Hold hold(pool_.mutex, pool_);
        lane.die(hold);
        pool_.rooms.dispatcher.refill(hold);
        pool_.rooms.dispatcher.rebalance(false, hold);
    }
    void come(FakeLane& lane) {
        Hold hold(pool_.mutex, pool_);
        lane.come();
        pool_.rooms.dispatcher.welcome(lane, hold);
        pool_.rooms.dispatcher.rebalance(false, hold);
        pool_.rooms.dispatcher.refill(hold);
    }

    std::mt19937 random_;
    FakePool pool_;
    std::vector<bool> still_;  // its worker has no CPU
    std::set<const PoolTask*> short_;
    bool all_end_ = false;
};

}  // namespace

// A task may wait for an older one; and a stream is of no use if its first item never comes.
TEST_CASE("no task that ends stays behind younger ones that do not, whoever stands still",
          "[pool][rooms][fake_lane]") {
    unsigned seed = from_environment("FAKE_LANE_SEED", std::random_device{}() % 1'000'000);
    unsigned rounds = from_environment("FAKE_LANE_ROUNDS", 50);
    for (unsigned round = 0; round < rounds; ++round) {
        INFO("FAKE_LANE_SEED=" << seed + round << " FAKE_LANE_ROUNDS=1");
        Endless run(seed + round);
        for (int i = 0; i < 300; ++i) run.step();
        run.finish();
    }
}

}  // namespace fake_lane_model_test
