#include <sidestep/condition.hpp>

#include <fstream>
#include <mutex>
#include <thread>

#include <catch2/catch.hpp>

#include "processes.hpp"
#include "sandbox.hpp"

namespace condition_test {

using sidestep::Condition;
using sidestep::Lock;
using sidestep::RLock;
using namespace std::chrono_literals;

namespace {

// Sleepers, half of them processes and half of them threads, and how many have gone on.
struct Sleepers {
    explicit Sleepers(Condition condition) : condition_(std::move(condition)) {}

    // One process and one thread more.
    void add_pair() {
        children_.emplace_back([c = condition_, w = &*woken_]() mutable { sleep(c, *w); });
        threads_.emplace_back([c = condition_, w = &*woken_]() mutable { sleep(c, *w); });
    }
    bool all_asleep(unsigned count) {
        return test::eventually([&] {
            std::scoped_lock lock(condition_);
            return condition_.waiting() == count;
        });
    }
    void notify(unsigned count) {
        std::scoped_lock lock(condition_);
        condition_.notify(count);
    }
    int woken() const { return *woken_; }
    // Exactly so many go on, and no more: those that are left still wait.
    bool reaches(int count, unsigned left) {
        return test::eventually([&] { return woken() == count; }) && all_asleep(left) &&
               woken() == count;
    }
    bool join() {
        bool good = true;
        for (test::Child& child : children_) good = child.wait() == 0 && good;
        for (std::thread& thread : threads_) thread.join();
        children_.clear();
        threads_.clear();
        return good;
    }

  private:
    static void sleep(Condition& condition, std::atomic<int>& woken) {
        std::scoped_lock lock(condition);
        condition.wait();
        ++woken;
    }
    Condition condition_;
    test::SharedPage<std::atomic<int>> woken_;
    std::vector<test::Child> children_;
    std::vector<std::thread> threads_;
};

}  // namespace

TEST_CASE("notify wakes one at a time", "[ipc][condition][py:_TestCondition.test_notify]") {
    Condition condition;
    Sleepers sleepers(condition);
    sleepers.add_pair();
    REQUIRE(sleepers.all_asleep(2));
    CHECK(sleepers.woken() == 0);
    sleepers.notify(1);
    CHECK(sleepers.reaches(1, 1));
    sleepers.notify(1);
    CHECK(sleepers.reaches(2, 0));
    CHECK(sleepers.join());
}

TEST_CASE("notify_all wakes all who wait, and none of those who timed out",
          "[ipc][condition][py:_TestCondition.test_notify_all]") {
    Condition condition;
    test::SharedPage<std::atomic<int>> timed_out;
    std::vector<test::Child> children;
    for (int i = 0; i < 6; ++i)
        children.emplace_back([&] {
            std::scoped_lock lock(condition);
            if (!condition.wait_for(20ms)) ++*timed_out;
        });
    for (test::Child& child : children) CHECK(child.wait() == 0);
    CHECK(*timed_out == 6);
    Sleepers sleepers(condition);
    for (int i = 0; i < 3; ++i) sleepers.add_pair();
    REQUIRE(sleepers.all_asleep(6));
    CHECK(sleepers.woken() == 0);
    {
        std::scoped_lock lock(condition);
        condition.notify_all();
    }
    CHECK(sleepers.reaches(6, 0));
    CHECK(sleepers.join());
}

TEST_CASE("notify(n) wakes n", "[ipc][condition][py:_TestCondition.test_notify_n]") {
    Condition condition;
    Sleepers sleepers(condition);
    for (int i = 0; i < 3; ++i) sleepers.add_pair();
    REQUIRE(sleepers.all_asleep(6));
    sleepers.notify(2);
    CHECK(sleepers.reaches(2, 4));
    sleepers.notify(4);
    CHECK(sleepers.reaches(6, 0));
    sleepers.notify(3);
    CHECK(sleepers.woken() == 6);
    CHECK(sleepers.join());
}

TEST_CASE("waiting ends at the deadline", "[ipc][condition][py:_TestCondition.test_timeout]") {
    Condition condition;
    std::scoped_lock lock(condition);
    auto begin = std::chrono::steady_clock::now();
    CHECK_FALSE(condition.wait_for(20ms));
    CHECK(std::chrono::steady_clock::now() - begin >= 20ms);
    CHECK_FALSE(condition.wait_for(20ms, [] { return false; }));
    CHECK(condition.wait_for(0s, [] { return true; }));
    CHECK_FALSE(condition.wait_until(std::chrono::system_clock::now() + 5ms));
}

TEST_CASE("a predicate is waited for", "[ipc][condition][py:_TestCondition.test_waitfor]") {
    Condition condition;
    test::SharedPage<std::atomic<int>> state;
    *state = -1;
    test::Child child([&] {
        std::scoped_lock lock(condition);
        *state = 0;
        condition.notify_one();
        condition.wait([&] { return *state == 4; });
        return *state == 4 ? 0 : 1;
    });
    {
        std::scoped_lock lock(condition);
        CHECK(condition.wait_for(test::kPatience, [&] { return *state == 0; }));
    }
    for (int i = 0; i < 4; ++i) {
        std::scoped_lock lock(condition);
        ++*state;
        condition.notify_one();
    }
    CHECK(child.wait() == 0);
}

TEST_CASE("a predicate that stays false is waited for until the deadline",
          "[ipc][condition][py:_TestCondition.test_waitfor_timeout]") {
    Condition condition;
    test::SharedPage<std::atomic<int>> state, started;
    test::Child child([&] {
        *started = 1;
        std::scoped_lock lock(condition);
        auto begin = std::chrono::steady_clock::now();
        bool result = condition.wait_for(100ms, [&] { return *state == 4; });
        return !result && std::chrono::steady_clock::now() - begin >= 100ms ? 0 : 1;
    });
    REQUIRE(test::eventually([&] { return *started == 1; }));
    for (int i = 0; i < 3; ++i) {
        std::scoped_lock lock(condition);
        ++*state;
        condition.notify_one();
    }
    CHECK(child.wait() == 0);
}

TEST_CASE("wait tells whether it was notified, and a signal handler does not end it",
          "[ipc][condition][py:_TestCondition.test_wait_result]") {
    static std::atomic<int> signals;
    signals = 0;
    struct sigaction action = {}, before = {};
    action.sa_handler = [](int) { ++signals; };
    sigaction(SIGUSR1, &action, &before);
    Condition condition;
    int parent = getpid();
    {
        std::scoped_lock lock(condition);
        CHECK_FALSE(condition.wait_for(0s));
        CHECK_FALSE(condition.wait_for(10ms));
        test::Child child([&] {
            {
                std::scoped_lock hold(condition);  // the parent waits now
                kill(parent, SIGUSR1);
            }
            while (signals == 0 && getppid() != parent) {
            }
            std::scoped_lock hold(condition);
            condition.notify_one();
        });
        CHECK(condition.wait_for(test::kPatience));
        CHECK(child.wait() == 0);
    }
    CHECK(signals == 1);
    sigaction(SIGUSR1, &before, nullptr);
}

TEST_CASE("wait and notify ask for the lock", "[ipc][condition]") {
    Condition condition;
    CHECK_THROWS_AS(condition.wait(), std::logic_error);
    CHECK_THROWS_AS(condition.notify_one(), std::logic_error);
}

TEST_CASE("a condition can have a given lock, and gives it up however deep", "[ipc][condition]") {
    Lock plain;
    Condition with_lock(plain);
    {
        std::scoped_lock hold(plain);
        CHECK_FALSE(with_lock.try_lock());
        CHECK_FALSE(with_lock.wait_for(1ms));
        with_lock.notify_all();
    }
    RLock rlock;
    Condition with_rlock(rlock);
    rlock.lock();
    rlock.lock();
    test::Child child([&] {
        std::scoped_lock hold(with_rlock);
        with_rlock.notify_one();
    });
    CHECK(with_rlock.wait_for(test::kPatience));
    CHECK(rlock.depth() == 2);
    rlock.unlock();
    rlock.unlock();
    CHECK(child.wait() == 0);
}

TEST_CASE("a notification passes over the dead", "[ipc][condition]") {
    Condition condition;
    auto sleep = [&] {
        std::scoped_lock lock(condition);
        condition.wait();
    };
    test::Child victim(sleep);
    auto waiting = [&](unsigned count) {
        return test::eventually([&] {
            std::scoped_lock lock(condition);
            return condition.waiting() == count;
        });
    };
    REQUIRE(waiting(1));
    test::Child other(sleep);
    REQUIRE(waiting(2));
    victim.kill();
    REQUIRE(waiting(1));
    {
        std::scoped_lock lock(condition);
        condition.notify_one();
    }
    CHECK(other.wait() == 0);
}

TEST_CASE("who waits for a predicate keeps its turn, however often it has looked",
          "[ipc][condition]") {
    Condition condition;
    test::SharedPage<std::atomic<int>> token, looks;
    auto waiting = [&](unsigned count) {
        return test::eventually([&] {
            std::scoped_lock lock(condition);
            return condition.waiting() == count;
        });
    };
    test::Child first([&] {
        std::scoped_lock lock(condition);
        condition.wait([&] { return ++*looks, *token == 1; });
    });
    REQUIRE(waiting(1));
    test::Child second([&] {
        std::scoped_lock lock(condition);
        condition.wait();
    });
    REQUIRE(waiting(2));
    int before = *looks;
    REQUIRE(test::eventually([&] { return *looks >= before + 2; }));
    {
        std::scoped_lock lock(condition);
        *token = 1;
        condition.notify_one();
        CHECK(condition.waiting() == 1);
    }
    CHECK(first.wait() == 0);
    {
        std::scoped_lock lock(condition);
        CHECK(condition.waiting() == 1);  // the second was not woken
        condition.notify_one();
    }
    CHECK(second.wait() == 0);
}

TEST_CASE("who has the holder's number in another pid namespace does not hold the lock",
          "[ipc][condition]") {
    Lock lock;
    Condition condition(lock);
    test::SharedPage<std::atomic<int>> held;
    test::Child holder([&] {
        condition.lock();
        *held = 1;
        for (;;) pause();
    });
    REQUIRE(test::eventually([&] { return *held == 1; }));
    int same_number = test::in_foreign_proc([&] {
        std::ofstream("/proc/sys/kernel/ns_last_pid") << holder.pid() - 1 << std::flush;
        return test::in_sandbox([&] {
            if (getpid() != holder.pid()) return 97;
            try {
                condition.notify_one();
                return 1;
            } catch (const std::logic_error&) {
                return 0;
            }
        });
    });
    CHECK(same_number == 0);
}

}  // namespace condition_test
