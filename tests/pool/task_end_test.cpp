// The first and the last moment of tasks. White box: the class alone, with tasks of a pool that was
// never started.
#include <exception>
#include <stdexcept>

#include <catch2/catch.hpp>

#include "room_support.hpp"
#include "task/task_end.hpp"

namespace task_end_test {

using namespace sidestep::detail;
using test::Tasks;

namespace {

class Nobody final : public Sleepers {
    void wake_waiters() noexcept override {}
    void kick_supervisor() noexcept override {}
};

}  // namespace

TEST_CASE("tasks are counted from their first moment to their last", "[pool][rooms][task_end]") {
    Tasks tasks;
    PoolMutex mutex;
    Nobody nobody;
    CallbackThread callbacks;
    sidestep::Segment memory = sidestep::Segment::create("sidestep-test", std::size_t(1) << 20);
    sidestep::Arena arguments(memory);
    TaskEnd end(arguments, callbacks);
    PoolTask* failed = tasks.make();
    PoolTask* cancelled = tasks.make();
    PoolTask* left = tasks.make();
    Hold hold(mutex, nobody);
    for (PoolTask* task : {failed, cancelled, left}) {
        task->add_reference();  // the pool's own
        end.begin(*task);
    }
    CHECK(end.begun() == 3);
    CHECK(end.outstanding() == 3);
    end.fail(failed, std::make_exception_ptr(std::runtime_error("why")), hold);
    end.cancel(cancelled, std::make_exception_ptr(std::runtime_error("cancelled")), hold);
    CHECK(end.completed() == 2);
    CHECK(end.outstanding() == 1);
    CHECK(end.failed() == 1);
    CHECK(end.cancelled() == 1);
    CHECK(failed->done());
    CHECK_THROWS_WITH(failed->result(), "why");
    CHECK_FALSE(failed->cancelled());
    CHECK(cancelled->cancelled());
    CHECK_FALSE(left->done());
    end.fail(left, std::make_exception_ptr(std::runtime_error("late")), hold);
    CHECK(end.outstanding() == 0);
}

}  // namespace task_end_test
