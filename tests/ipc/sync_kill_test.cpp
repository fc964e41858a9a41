// What is left when a process is killed after each single instruction of an operation.
#include <sidestep/sync.hpp>

#include <memory>
#include <mutex>

#include <catch2/catch.hpp>

#include "processes.hpp"

namespace sync_kill_test {

using namespace sidestep;
using namespace std::chrono_literals;

namespace {

// Runs the survivor's part and checks that it ends.
template <class F>
void in_time(F f, unsigned k) {
    INFO("killed after instruction " << k);
    auto begin = std::chrono::steady_clock::now();
    CHECK(f());
    CHECK(std::chrono::steady_clock::now() - begin < test::kPatience);
}

template <class L>
void relock(L& lock, unsigned k) {
    in_time([&] { return lock.try_lock_for(test::kPatience); }, k);
    lock.unlock();
}

}  // namespace

TEMPLATE_TEST_CASE("kill at every instruction of lock and unlock", "[ipc][kill][lock]", Lock,
                   RLock) {
    TestType lock;
    auto warm_up = [&] {
        lock.lock();
        lock.unlock();
    };
    auto both = [&] {
        lock.lock();
        lock.unlock();
    };
    CHECK(test::kill_at_every_instruction(warm_up, both, [&](unsigned k) { relock(lock, k); }) >
          20);
}

TEST_CASE("kill at every instruction of unlock, while another waits", "[ipc][kill][lock]") {
    Lock lock;
    test::SharedPage<std::atomic<int>> held;
    auto prepare = [&] {
        lock.lock();
        held->store(1);
        (void)test::eventually([&] { return held->load() == 2; });
    };
    // The waiter is a process, so that fork() meets no threads: it reports by its exit code.
    std::unique_ptr<test::Child> other;
    auto spawn_waiter = [&] {
        held->store(0);
        other = std::make_unique<test::Child>([&] {
            (void)test::eventually([&] { return held->load() == 1; });
            held->store(2);
            bool got = lock.try_lock_for(test::kPatience);
            if (got) lock.unlock();
            return got ? 0 : 1;
        });
    };
    spawn_waiter();
    test::kill_at_every_instruction(
        prepare, [&] { lock.unlock(); },
        [&](unsigned k) {
            INFO("killed after instruction " << k);
            CHECK(other->wait() == 0);
            relock(lock, k);
            spawn_waiter();
        });
    other->kill();
}

TEST_CASE("kill at every instruction of acquire and release", "[ipc][kill][semaphore]") {
    BoundedSemaphore semaphore(3);
    auto operation = [&] {
        semaphore.acquire();
        semaphore.release();
    };
    unsigned steps = test::kill_at_every_instruction(operation, operation, [&](unsigned k) {
        INFO("killed after instruction " << k);
        CHECK(semaphore.value() == 3);
    });
    CHECK(steps > 20);
}

TEST_CASE("kill at every instruction of release, while another waits", "[ipc][kill][semaphore]") {
    Semaphore semaphore(1);
    test::SharedPage<std::atomic<int>> held;
    std::unique_ptr<test::Child> other;
    auto prepare = [&] {
        semaphore.acquire();
        held->store(1);
        (void)test::eventually([&] { return held->load() == 2; });
    };
    auto spawn_waiter = [&] {
        held->store(0);
        other = std::make_unique<test::Child>([&] {
            (void)test::eventually([&] { return held->load() == 1; });
            held->store(2);
            bool got = semaphore.try_acquire_for(test::kPatience);
            if (got) semaphore.release();
            return got ? 0 : 1;
        });
    };
    spawn_waiter();
    test::kill_at_every_instruction(
        prepare, [&] { semaphore.release(); },
        [&](unsigned k) {
            INFO("killed after instruction " << k);
            CHECK(other->wait() == 0);
            CHECK(semaphore.value() == 1);
            spawn_waiter();
        });
    other->kill();
}

TEST_CASE("kill at every instruction of a timed acquire", "[ipc][kill][semaphore]") {
    Semaphore semaphore(0);
    auto operation = [&] { (void)semaphore.try_acquire_for(100us); };
    test::kill_at_every_instruction(operation, operation, [&](unsigned k) {
        INFO("killed after instruction " << k);
        semaphore.release();
        CHECK(semaphore.value() == 1);
        CHECK(semaphore.try_acquire());
    });
}

TEST_CASE("kill at every instruction of Event::set, while another waits", "[ipc][kill][event]") {
    Event event;
    std::unique_ptr<test::Child> other;
    auto spawn_waiter = [&] {
        event.clear();
        other =
            std::make_unique<test::Child>([&] { return event.wait_for(test::kPatience) ? 0 : 1; });
    };
    spawn_waiter();
    test::kill_at_every_instruction([] {}, [&] { event.set(); },
                                    [&](unsigned k) {
                                        INFO("killed after instruction " << k);
                                        if (!event.is_set()) event.set();
                                        CHECK(other->wait() == 0);
                                        spawn_waiter();
                                    });
    other->kill();
}

TEST_CASE("kill at every instruction of Event::wait", "[ipc][kill][event]") {
    Event event;
    auto operation = [&] { event.wait_for(100us); };
    test::kill_at_every_instruction(operation, operation, [&](unsigned k) {
        INFO("killed after instruction " << k);
        event.set();
        CHECK(event.wait_for(0s));
        event.clear();
    });
}

TEST_CASE("kill at every instruction of Condition::wait", "[ipc][kill][condition]") {
    Condition condition;
    auto prepare = [&] {
        condition.lock();
        condition.wait_for(1us);
    };
    auto operation = [&] {
        condition.wait_for(100us);
        condition.unlock();
    };
    unsigned steps = test::kill_at_every_instruction(prepare, operation, [&](unsigned k) {
        INFO("killed after instruction " << k);
        std::scoped_lock lock(condition);
        condition.notify_all();
        CHECK(condition.waiting() == 0);
        CHECK_FALSE(condition.wait_for(1us));
    });
    CHECK(steps > 50);
}

TEST_CASE("kill at every instruction of Condition::notify, while another waits",
          "[ipc][kill][condition]") {
    Condition condition;
    test::SharedPage<std::atomic<int>> ready;
    std::unique_ptr<test::Child> other;
    auto spawn_waiter = [&] {
        *ready = 0;
        other = std::make_unique<test::Child>([&] {
            std::scoped_lock lock(condition);
            *ready = 1;
            return condition.wait_for(test::kPatience) ? 0 : 1;
        });
    };
    auto prepare = [&] {
        (void)test::eventually([&] { return *ready != 0; });
        condition.lock();
    };
    auto operation = [&] {
        condition.notify_one();
        condition.unlock();
    };
    spawn_waiter();
    test::kill_at_every_instruction(prepare, operation, [&](unsigned k) {
        INFO("killed after instruction " << k);
        condition.lock();
        condition.notify_one();  // if the killed one has not
        condition.unlock();
        CHECK(other->wait() == 0);
        spawn_waiter();
    });
    other->kill();
}

TEST_CASE("kill at every instruction of Barrier::wait, while another waits",
          "[ipc][kill][barrier]") {
    Barrier barrier(2);
    std::unique_ptr<test::Child> other;
    auto spawn_waiter = [&] {
        other = std::make_unique<test::Child>([&] {
            barrier.wait();
            try {
                barrier.wait_for(test::kPatience);
            } catch (const BrokenBarrierError&) {
                return 1;
            }
            return 0;
        });
    };
    auto prepare = [&] {
        barrier.wait();  // both are known now
        (void)test::eventually([&] { return barrier.n_waiting() == 1; });
    };
    spawn_waiter();
    int passed = 0, broken = 0;
    test::kill_at_every_instruction(
        prepare, [&] { barrier.wait(); },
        [&](unsigned) {
            int result = other->wait();
            (result == 0 ? passed : broken) += 1;
            if (result > 1) FAIL("the survivor threw");
            barrier.reset();
            spawn_waiter();
        });
    CHECK(passed > 0);
    CHECK(broken > 10);
    other->kill();
}

}  // namespace sync_kill_test
