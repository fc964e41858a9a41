#include <sidestep/lock.hpp>

#include <mutex>
#include <thread>

#include <catch2/catch.hpp>

#include "processes.hpp"

namespace lock_test {

using sidestep::Lock;
using sidestep::RLock;
using namespace std::chrono_literals;

TEST_CASE("a lock is held once, and unlocked once", "[ipc][lock][py:_TestLock.test_lock]") {
    Lock lock;
    lock.lock();
    CHECK_FALSE(lock.try_lock());
    CHECK(lock.holder() == getpid());
    lock.unlock();
    CHECK_FALSE(lock.holder());
    CHECK_THROWS_AS(lock.unlock(), std::logic_error);
}

TEST_CASE("an rlock is held as often as it is locked", "[ipc][lock][py:_TestLock.test_rlock]") {
    RLock lock;
    lock.lock();
    CHECK(lock.try_lock());
    CHECK(lock.try_lock_for(1ms));
    CHECK(lock.depth() == 3);
    for (int i = 0; i < 3; ++i) lock.unlock();
    CHECK(lock.depth() == 0);
    CHECK_THROWS_AS(lock.unlock(), std::logic_error);
}

TEST_CASE("a scope can hold a lock", "[ipc][lock][py:_TestLock.test_lock_context]") {
    Lock a;
    RLock b;
    {
        std::scoped_lock both(a, b);
        CHECK(a.holder() == getpid());
    }
    CHECK_FALSE(a.holder());
    std::unique_lock timed(a, 1ms);
    CHECK(timed.owns_lock());
}

TEST_CASE("waiting for a lock ends at the deadline", "[ipc][lock]") {
    Lock lock;
    std::scoped_lock hold(lock);
    CHECK_FALSE(lock.try_lock_for(5ms));
    CHECK_FALSE(lock.try_lock_for(-1s));
    CHECK_FALSE(lock.try_lock_until(std::chrono::system_clock::now() + 3ms));
    CHECK_FALSE(lock.try_lock_until(std::chrono::steady_clock::now()));
}

TEST_CASE("a copy of a handle is the same lock, a new one is another", "[ipc][lock]") {
    Lock lock, copy = lock, other;
    CHECK(copy == lock);
    CHECK_FALSE(other == lock);
    std::scoped_lock hold(lock);
    CHECK_FALSE(copy.try_lock());
    CHECK(other.try_lock());
    other.unlock();
    Lock moved = std::move(other);
    CHECK_THROWS_AS(other.lock(), std::logic_error);
}

TEST_CASE("an rlock belongs to a thread, and to one process", "[ipc][lock]") {
    RLock lock;
    std::scoped_lock hold(lock);
    bool taken = true, threw = false;
    std::thread([&] {
        taken = lock.try_lock();
        try {
            lock.unlock();
        } catch (const std::logic_error&) {
            threw = true;
        }
    }).join();
    CHECK_FALSE(taken);
    CHECK(threw);
    test::Child child([&] { return lock.try_lock() || lock.depth() != 0; });
    CHECK(child.wait() == 0);
}

TEST_CASE("a forked child does not hold what its parent holds", "[ipc][lock]") {
    Lock lock;
    std::scoped_lock hold(lock);
    test::Child child([&] {
        try {
            lock.unlock();
        } catch (const std::logic_error&) {
            return lock.try_lock() ? 2 : 0;
        }
        return 1;
    });
    CHECK(child.wait() == 0);
}

TEST_CASE("processes exclude each other", "[ipc][lock]") {
    constexpr int kRounds = 20000;
    Lock lock;
    test::SharedPage<volatile long> count;
    std::vector<test::Child> children;
    for (int i = 0; i < 3; ++i)
        children.emplace_back([&] {
            for (int j = 0; j < kRounds; ++j) {
                std::scoped_lock hold(lock);
                *count = *count + 1;
            }
        });
    for (test::Child& child : children) CHECK(child.wait() == 0);
    CHECK(*count == 3 * kRounds);
}

TEMPLATE_TEST_CASE("the next one gets the lock of a dead holder, and is told", "[ipc][lock]", Lock,
                   RLock) {
    TestType lock;
    test::SharedPage<std::atomic<int>> held;
    test::Child child([&] {
        lock.lock();
        held->store(1);
        for (;;) pause();
    });
    REQUIRE(test::eventually([&] { return held->load() == 1; }));
    CHECK_FALSE(lock.try_lock());
    SECTION("who comes after the death") {
        child.kill();
        CHECK(lock.try_lock());
    }
    SECTION("who waits already") {
        std::thread killer([&] { child.kill(); });
        lock.lock();
        killer.join();
    }
    SECTION("who comes while the dead one is a zombie") {
        child.signal(SIGKILL);
        CHECK(lock.try_lock_for(test::kPatience));
    }
    CHECK(lock.owner_died());
    lock.unlock();
    CHECK_FALSE(lock.owner_died());
    lock.lock();
    CHECK_FALSE(lock.owner_died());
    lock.unlock();
}

TEST_CASE("a stopped holder keeps the lock", "[ipc][lock]") {
    Lock lock;
    test::SharedPage<std::atomic<int>> stage;
    test::Child child([&] {
        lock.lock();
        stage->store(1);
        (void)test::eventually([&] { return stage->load() == 2; });
        lock.unlock();  // throws if it was robbed
    });
    REQUIRE(test::eventually([&] { return stage->load() == 1; }));
    child.signal(SIGSTOP);
    CHECK_FALSE(lock.try_lock_for(300ms));
    stage->store(2);
    child.signal(SIGCONT);
    CHECK(lock.try_lock_for(test::kPatience));
    CHECK_FALSE(lock.owner_died());
    lock.unlock();
    CHECK(child.wait() == 0);
}

TEST_CASE("survivors go on when lockers are killed at random", "[ipc][lock]") {
    Lock lock;
    test::SharedPage<std::atomic<long>> rounds;
    auto work = [&] {
        for (;;) {
            std::scoped_lock hold(lock);
            rounds->fetch_add(1);
        }
    };
    test::Child survivor(work);
    for (int i = 0; i < 100; ++i) {
        test::Child victim(work);
        long seen = rounds->load();
        REQUIRE(test::eventually([&] { return rounds->load() > seen + 100; }));
        victim.kill();
    }
    long seen = rounds->load();
    CHECK(test::eventually([&] { return rounds->load() > seen; }));
}

}  // namespace lock_test
