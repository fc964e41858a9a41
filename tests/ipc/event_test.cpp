#include <sidestep/event.hpp>

#include <thread>

#include <catch2/catch.hpp>

#include "processes.hpp"

namespace event_test {

using sidestep::Event;
using namespace std::chrono_literals;

TEST_CASE("an event is waited for until it is set", "[ipc][event][py:_TestEvent.test_event]") {
    Event event;
    CHECK_FALSE(event.is_set());
    CHECK_FALSE(event.wait_for(0s));
    CHECK_FALSE(event.wait_for(5ms));
    event.set();
    CHECK(event.is_set());
    CHECK(event.wait_for(0s));
    event.wait();
    event.clear();
    CHECK_FALSE(event.is_set());
    test::Child setter([&] { event.set(); });
    CHECK(event.wait_for(test::kPatience));
    CHECK(setter.wait() == 0);
}

TEST_CASE("an event can be printed", "[ipc][event][py:_TestEvent.test_repr]") {
    Event event;
    CHECK(to_string(event) == "Event(unset)");
    event.set();
    CHECK(to_string(event) == "Event(set)");
    event.clear();
    CHECK(to_string(event) == "Event(unset)");
}

TEST_CASE("set() wakes all who wait, even if clear() follows at once", "[ipc][event]") {
    Event event;
    std::vector<test::Child> waiters;
    test::SharedPage<std::atomic<int>> waiting;
    for (int i = 0; i < 4; ++i)
        waiters.emplace_back([&] {
            ++*waiting;
            return event.wait_for(test::kPatience) ? 0 : 1;
        });
    REQUIRE(test::eventually([&] { return *waiting == 4; }));
    // Repeated: a waiter may have counted itself and not yet begun to wait.
    std::atomic<bool> all_done{false};
    std::thread pulse([&] {
        while (!all_done) {
            event.set();
            event.clear();
            std::this_thread::yield();
        }
    });
    for (test::Child& waiter : waiters) CHECK(waiter.wait() == 0);
    all_done = true;
    pulse.join();
}

TEST_CASE("a waiter that was killed delays nobody", "[ipc][event]") {
    Event event;
    test::SharedPage<std::atomic<int>> waiting;
    test::Child victim([&] {
        ++*waiting;
        event.wait();
    });
    test::Child other([&] {
        ++*waiting;
        event.wait();
    });
    REQUIRE(test::eventually([&] { return *waiting == 2; }));
    victim.kill();
    event.set();
    CHECK(other.wait() == 0);
}

}  // namespace event_test
