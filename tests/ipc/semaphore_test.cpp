#include <sidestep/semaphore.hpp>

#include <climits>
#include <thread>

#include <catch2/catch.hpp>

#include "processes.hpp"

namespace semaphore_test {

using sidestep::BoundedSemaphore;
using sidestep::Semaphore;
using namespace std::chrono_literals;

namespace {

// Takes `count` permits in a child and dies with them, or without.
template <class S>
test::Child holder(S& semaphore, int count) {
    test::SharedPage<std::atomic<int>> held;
    test::Child child([&] {
        for (int i = 0; i < count; ++i) semaphore.acquire();
        held->store(1);
        for (;;) pause();
    });
    REQUIRE(test::eventually([&] { return held->load() == 1; }));
    return child;
}

}  // namespace

TEST_CASE("a semaphore counts down, up, and beyond what it began with",
          "[ipc][semaphore][py:_TestSemaphore.test_semaphore]") {
    Semaphore semaphore(2);
    CHECK(semaphore.value() == 2);
    semaphore.acquire();
    CHECK(semaphore.value() == 1);
    CHECK(semaphore.try_acquire());
    CHECK(semaphore.value() == 0);
    CHECK_FALSE(semaphore.try_acquire());
    for (unsigned value = 1; value <= 4; ++value) {
        semaphore.release();
        CHECK(semaphore.value() == value);
    }
    for (int i = 0; i < 4; ++i) CHECK(semaphore.try_acquire());
    CHECK_FALSE(semaphore.try_acquire());
}

TEST_CASE("a bounded semaphore refuses one release too many",
          "[ipc][semaphore][py:_TestSemaphore.test_bounded_semaphore]") {
    for (bool returned : {true, false}) {
        BoundedSemaphore semaphore(2, {.returned_on_death = returned});
        CHECK_THROWS_AS(semaphore.release(), std::logic_error);
        CHECK(semaphore.try_acquire());
        CHECK(semaphore.try_acquire());
        CHECK_FALSE(semaphore.try_acquire());
        semaphore.release(2);
        CHECK_THROWS_AS(semaphore.release(), std::logic_error);
        CHECK(semaphore.value() == 2);
    }
}

TEST_CASE("waiting for a permit ends at the deadline",
          "[ipc][semaphore][py:_TestSemaphore.test_timeout]") {
    Semaphore semaphore(0);
    CHECK_FALSE(semaphore.try_acquire());
    CHECK_FALSE(semaphore.try_acquire_for(0s));
    CHECK_FALSE(semaphore.try_acquire_for(-1s));
    auto begin = std::chrono::steady_clock::now();
    CHECK_FALSE(semaphore.try_acquire_for(30ms));
    CHECK(std::chrono::steady_clock::now() - begin >= 30ms);
    CHECK_FALSE(semaphore.try_acquire_until(std::chrono::system_clock::now() + 5ms));
}

TEST_CASE("bad numbers of permits are refused", "[ipc][semaphore]") {
    CHECK_THROWS_AS(Semaphore(unsigned(INT_MAX) + 1, {.returned_on_death = false}),
                    std::invalid_argument);
    CHECK_THROWS_AS(Semaphore(65537), std::invalid_argument);
    CHECK_THROWS_AS(BoundedSemaphore(0), std::invalid_argument);
    CHECK(Semaphore(65536).value() == 65536);
    CHECK(Semaphore(INT_MAX, {.returned_on_death = false}).value() == INT_MAX);
    Semaphore full(INT_MAX, {.returned_on_death = false});
    CHECK_THROWS_AS(full.release(), std::logic_error);
}

TEST_CASE("the permits of the dead come back", "[ipc][semaphore]") {
    BoundedSemaphore semaphore(3);
    test::Child child = holder(semaphore, 2);
    CHECK(semaphore.value() == 1);
    CHECK(semaphore.try_acquire());
    CHECK_FALSE(semaphore.try_acquire());
    SECTION("to value()") { CHECK(child.kill() == -SIGKILL); }
    SECTION("to try_acquire()") {
        child.kill();
        CHECK(semaphore.try_acquire());
        CHECK(semaphore.try_acquire());
        CHECK_FALSE(semaphore.try_acquire());
        semaphore.release(2);
    }
    SECTION("to who waits already") {
        std::thread killer([&] { child.kill(); });
        semaphore.acquire();
        killer.join();
        semaphore.release();
    }
    CHECK(semaphore.value() == 2);
    semaphore.release();
    CHECK_THROWS_AS(semaphore.release(), std::logic_error);
}

TEST_CASE("a plain counter keeps what the dead took", "[ipc][semaphore]") {
    Semaphore semaphore(3, {.returned_on_death = false});
    test::Child child = holder(semaphore, 2);
    child.kill();
    CHECK(semaphore.value() == 1);
}

TEST_CASE("a permit that was handed over is not returned twice", "[ipc][semaphore]") {
    Semaphore semaphore(1);
    test::Child child = holder(semaphore, 1);
    semaphore.release();  // for the child
    CHECK(semaphore.value() == 1);
    child.kill();
    CHECK(semaphore.value() == 1);
}

TEST_CASE("a signal that was consumed does not come back", "[ipc][semaphore]") {
    Semaphore items(0);
    items.release(5);
    test::Child child = holder(items, 3);
    child.kill();
    CHECK(items.value() == 2);
}

TEST_CASE("permits limit how many processes work at a time", "[ipc][semaphore]") {
    Semaphore semaphore(2);
    struct Seen {
        std::atomic<int> inside{0}, most{0};
    };
    test::SharedPage<Seen> seen;
    std::vector<test::Child> children;
    for (int i = 0; i < 4; ++i)
        children.emplace_back([&] {
            for (int j = 0; j < 3000; ++j) {
                semaphore.acquire();
                int now = ++seen->inside;
                if (now > seen->most) seen->most = now;
                --seen->inside;
                semaphore.release();
            }
        });
    for (test::Child& child : children) CHECK(child.wait() == 0);
    CHECK(seen->most <= 2);
    CHECK(semaphore.value() == 2);
}

TEST_CASE("several waiters get several permits that come at once", "[ipc][semaphore]") {
    Semaphore semaphore(0);
    std::vector<test::Child> children;
    for (int i = 0; i < 4; ++i) children.emplace_back([&] { semaphore.acquire(); });
    semaphore.release(4);
    for (test::Child& child : children) CHECK(child.wait() == 0);
    CHECK(semaphore.value() == 0);
}

}  // namespace semaphore_test
