// Locks, semaphores, conditions, events, barriers in a server.
#include <catch2/catch.hpp>

#include <sidestep/barrier.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/manager_server.hpp>
#include <sidestep/process.hpp>

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "process_support.hpp"
#include "remote_support.hpp"
#include "support.hpp"

namespace sync_test {

namespace mp = sidestep;
using namespace std::chrono_literals;

namespace {
// Runs f(argument) in a process, to its end.
template <class F, class Proxy>
void in_a_process(F f, const Proxy& argument) {
    mp::Process process(f, argument);
    process.start();
    process.join();
    process.rethrow();
    CHECK(process.exitcode() == 0);
}
void expect(bool holds, const char* what) {
    if (!holds) throw std::runtime_error(what);
}
}  // namespace

TEST_CASE("another process sees an event, and clears it",
          "[manager][event][py:TestSyncManagerTypes.test_event]") {
    mp::Manager manager;
    auto event = manager.event();
    event.set();
    in_a_process(
        [](mp::EventProxy o) {
            expect(o.is_set(), "it is set");
            o.wait();
            o.clear();
            expect(!o.wait_for(1ms), "it is clear");
        },
        event);
    CHECK_FALSE(event.is_set());
    CHECK_FALSE(event.wait_for(1ms));
}

TEST_CASE("who waits when an event is set passes, even if it is cleared at once",
          "[manager][event]") {
    mp::Manager manager;
    auto event = manager.event();
    auto passed = event.submit<&mp::detail::EventObject::wait>(mp::Timeout::forever().time());
    CHECK(test::eventually([&] {
        event.set();
        event.clear();
        return passed.wait_for(1ms);
    }));
    CHECK(passed.get());
}

TEST_CASE("a lock whose process ended is free, and its next holder is told",
          "[manager][lock][py:TestSyncManagerTypes.test_lock]") {
    mp::Manager manager;
    auto lock = manager.lock();
    in_a_process([](mp::LockProxy o) { o.lock(); }, lock);
    lock.lock();
    CHECK(lock.owner_died());
    in_a_process([](mp::LockProxy o) { expect(!o.owner_died(), "it is not the holder"); }, lock);
    CHECK(lock.holder() == ::getpid());
    CHECK_FALSE(lock.try_lock());
    CHECK_FALSE(lock.try_lock_for(1ms));
    lock.unlock();
    CHECK_THROWS_AS(lock.unlock(), std::logic_error);  // it is free
    lock.lock();
    CHECK_FALSE(lock.owner_died());
    in_a_process(
        [](mp::LockProxy o) {
            expect(!o.try_lock(), "it is held");
            try {
                o.unlock();
            } catch (const std::logic_error&) {
                return;
            }
            expect(false, "unlock of another's lock throws");
        },
        lock);
    lock.unlock();
    CHECK_FALSE(lock.holder());
}

namespace {
// Ends its locks by std::scoped_lock when the server is gone.
struct OfServer {
    mp::LockProxy lock;
    mp::RLockProxy rlock;
    mp::ConditionProxy condition;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(lock, rlock, condition);
    }
    void hold(const std::function<void()>& end_server) const {
        {
            std::scoped_lock held(lock, rlock, condition);
            end_server();
            CHECK_THROWS_AS(condition.notify_one(), mp::ActorLost);
        }
        lock.unlock();
        rlock.unlock();
        condition.unlock();
        CHECK_THROWS_AS(lock.lock(), mp::ActorLost);
        CHECK_THROWS_AS(rlock.try_lock(), mp::ActorLost);
        CHECK_THROWS_AS(condition.wait(), mp::ActorLost);
    }
    static OfServer of(mp::Manager& manager) {
        return {manager.get<mp::Lock>("lock"), manager.get<mp::RLock>("rlock"),
                manager.get<mp::Condition>("condition")};
    }
};
constexpr auto kExposeLocks = [](mp::ManagerServer& server) {
    server.expose<mp::Lock>("lock");
    server.expose<mp::RLock>("rlock");
    server.expose<mp::Condition>("condition");
};
}  // namespace

TEST_CASE("the end of a scoped lock passes when its server has died", "[manager][lock][death]") {
    mp::Manager manager;
    const OfServer locks{manager.lock(), manager.rlock(), manager.condition()};
    SECTION("which is this process's child") {
        locks.hold([&] { REQUIRE(::kill(manager.pid(), SIGKILL) == 0); });
    }
    SECTION("which is another's") {
        mp::Process client(
            [](OfServer of, int server) {
                std::scoped_lock held(of.lock, of.rlock, of.condition);
                (void)::kill(server, SIGKILL);
            },
            locks, manager.pid());
        client.start();
        client.join();
        CHECK(client.exitcode() == 0);
    }
    SECTION("since it was shut down") {
        locks.hold([&] { manager.shutdown(); });
    }
}

TEST_CASE("the end of a scoped lock passes when its ManagerServer has ended",
          "[manager][lock][session][death]") {
    const mp::Address address = GENERATE(mp::Address(mp::UnixAddress{}), mp::TcpAddress{});
    SECTION("by a signal") {
        test::RemoteServer server(kExposeLocks, address);
        mp::Manager manager = server.connect();
        OfServer::of(manager).hold([&] { server.process().kill(); });
    }
    SECTION("and another one is at its address") {
        std::optional<test::RemoteServer> next;
        test::RemoteServer server(kExposeLocks, address);
        mp::Manager manager = server.connect();
        OfServer::of(manager).hold([&] {
            server.process().kill();
            server.process().join();
            next.emplace(kExposeLocks, server.address());
        });
    }
    SECTION("in a process that goes on") {
        mp::ManagerServer server({.address = address, .authkey = "secret"});
        kExposeLocks(server);
        server.start();
        mp::Manager manager = mp::Manager::connect(server.address(), {.authkey = "secret"});
        OfServer::of(manager).hold([&] { server.stop(); });
    }
}

TEST_CASE("unlock() throws when the server lives on, and has given the lock to others",
          "[manager][lock][session]") {
    test::RemoteServer server(
        kExposeLocks, GENERATE(mp::Address(mp::UnixAddress{}), mp::Address(mp::TcpAddress{})));
    mp::Manager manager = server.connect(200ms);
    const OfServer locks = OfServer::of(manager);
    auto check_told = [&] {
        CHECK_THROWS_AS(locks.lock.unlock(), mp::Disconnected);
        CHECK_THROWS_AS(locks.rlock.unlock(), mp::Disconnected);
        CHECK_THROWS_AS(locks.condition.unlock(), mp::Disconnected);
    };
    locks.lock.lock();
    locks.rlock.lock();
    locks.condition.lock();
    SECTION("since this process has ended the session") {
        manager.shutdown();
        check_told();
        mp::Manager again = server.connect();
        CHECK(again.get<mp::Lock>("lock").try_lock_for(test::kPatience));
    }
    SECTION("or may, since it was silent") {
        test::Stopped stopped(server.pid());
        CHECK(test::eventually([&] { return !manager.is_alive(); }));
        check_told();
    }
}

TEST_CASE("another process takes a recursive lock and gives it back",
          "[manager][lock][py:TestSyncManagerTypes.test_rlock]") {
    mp::Manager manager;
    auto lock = manager.rlock();
    in_a_process(
        [](mp::RLockProxy o) {
            o.lock();
            o.lock();
            o.unlock();
            o.unlock();
        },
        lock);
    std::scoped_lock twice(lock);
    CHECK_FALSE(lock.owner_died());
    CHECK(lock.try_lock());
    lock.unlock();
    std::thread([&] { CHECK_FALSE(lock.try_lock()); }).join();
}

TEST_CASE("another process takes a permit, this one gives it back",
          "[manager][semaphore][py:TestSyncManagerTypes.test_semaphore]") {
    mp::Manager manager;
    auto semaphore = manager.semaphore();
    in_a_process([](mp::SemaphoreProxy o) { o.acquire(); }, semaphore);
    CHECK(semaphore.value() == 0);
    CHECK_FALSE(semaphore.try_acquire());
    CHECK_FALSE(semaphore.try_acquire_for(1ms));
    semaphore.release();
    semaphore.release(2);
    CHECK(semaphore.value() == 3);
    CHECK_THROWS_AS(semaphore.release(~0u), std::overflow_error);
}

TEST_CASE("a bounded semaphore has no more permits than it was made with",
          "[manager][semaphore][py:TestSyncManagerTypes.test_bounded_semaphore]") {
    mp::Manager manager;
    auto semaphore = manager.bounded_semaphore();
    in_a_process([](mp::SemaphoreProxy o) { o.acquire(); }, semaphore);
    semaphore.release();
    CHECK_THROWS_AS(semaphore.release(), std::logic_error);
    CHECK(semaphore.value() == 1);
    // As of those in shared memory.
    CHECK_THROWS_AS(manager.bounded_semaphore(0), std::invalid_argument);
    CHECK_THROWS_AS(manager.semaphore(unsigned(-1)), std::invalid_argument);
    CHECK(manager.semaphore(0).value() == 0);
}

TEST_CASE("another process takes the lock of a condition and gives it back",
          "[manager][condition][py:TestSyncManagerTypes.test_condition]") {
    mp::Manager manager;
    auto condition = manager.condition();
    in_a_process(
        [](mp::ConditionProxy o) {
            o.lock();
            o.unlock();
        },
        condition);
    CHECK_THROWS_AS(condition.wait(), std::logic_error);
    CHECK_THROWS_AS(condition.notify_one(), std::logic_error);
    CHECK(condition.try_lock());
    CHECK_FALSE(condition.wait_for(1ms));
    condition.unlock();
}

TEST_CASE("a condition wakes as many as it is told to", "[manager][condition]") {
    mp::Manager manager;
    auto condition = manager.condition();
    auto ready = manager.value<int>(0);
    std::atomic<int> woken{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i)
        threads.emplace_back([&] {
            std::scoped_lock lock(condition);
            condition.wait();
            ++woken;
        });
    CHECK(test::eventually([&] { return condition.waiting() == 3; }));
    auto notify = [&](unsigned count) {
        std::scoped_lock lock(condition);
        condition.notify(count);
    };
    notify(1);
    CHECK(test::eventually([&] { return woken == 1; }));
    CHECK(condition.waiting() == 2);
    notify(5);
    for (auto& thread : threads) thread.join();
    CHECK(woken == 3);
    std::thread setter([&] {
        ready.set(1);
        notify(1);
    });
    condition.lock();
    condition.wait([&] { return ready.get() == 1; });
    CHECK_FALSE(condition.wait_for(1ms, [] { return false; }));
    condition.unlock();
    setter.join();
}

TEST_CASE("a notified process that dies before it has the lock leaves its notification to another",
          "[manager][condition][death]") {
    mp::Manager manager;
    auto condition = manager.condition();
    mp::Process first(
        [](mp::ConditionProxy c) {
            std::scoped_lock lock(c);
            c.wait();
        },
        condition);
    first.start();
    CHECK(test::eventually([&] { return condition.waiting() == 1; }));
    bool notified = false;
    std::thread second([&] {
        std::scoped_lock lock(condition);
        notified = condition.wait_for(test::kPatience);
    });
    CHECK(test::eventually([&] { return condition.waiting() == 2; }));
    {
        std::scoped_lock lock(condition);
        condition.notify_one();
        CHECK(condition.waiting() == 1);
        first.kill();
        first.join();
        CHECK(test::eventually([&] { return manager.stats().clients == 1; }));
    }
    second.join();
    CHECK(notified);
}

TEST_CASE("each party of a barrier is told how its own round ended", "[manager][barrier]") {
    using mp::detail::BarrierObject;
    mp::Manager manager;
    auto barrier = manager.barrier(2);
    auto waiting = barrier.submit<&BarrierObject::wait>(mp::Timeout::forever().time());
    CHECK(test::eventually([&] { return barrier.n_waiting() == 1; }));
    // Before the one that waits can go on.
    SECTION("by a reset, and another one after it") {
        barrier.call([](BarrierObject& b) {
            b.reset();
            b.abort();
            b.reset();
        });
        CHECK_THROWS_AS(waiting.get(), mp::BrokenBarrierError);
    }
    SECTION("by the last party, and a reset after it") {
        barrier.call([](BarrierObject& b) {
            (void)b.wait(mp::detail::Nanoseconds(0));
            b.abort();
            b.reset();
        });
        CHECK(waiting.get() == 0);
    }
    CHECK_FALSE(barrier.broken());
    CHECK(barrier.n_waiting() == 0);
}

TEST_CASE("another process resets a barrier",
          "[manager][barrier][py:TestSyncManagerTypes.test_barrier]") {
    mp::Manager manager;
    auto barrier = manager.barrier(5);
    in_a_process(
        [](mp::BarrierProxy o) {
            expect(o.parties() == 5, "five parties");
            o.reset();
        },
        barrier);
    CHECK(barrier.n_waiting() == 0);
    CHECK_FALSE(barrier.broken());
    CHECK_THROWS_AS(manager.barrier(0), std::invalid_argument);
}

TEST_CASE("a barrier lets all pass, breaks when one is late, and is reset", "[manager][barrier]") {
    mp::Manager manager;
    auto barrier = manager.barrier(2);
    std::atomic<unsigned> sum{0};
    std::thread other([&] { sum += barrier.wait(); });
    sum += barrier.wait();
    other.join();
    CHECK(sum == 1);
    CHECK_THROWS_AS(barrier.wait_for(1ms), mp::BrokenBarrierError);
    CHECK(barrier.broken());
    CHECK_THROWS_AS(barrier.wait(), mp::BrokenBarrierError);
    barrier.reset();
    std::thread interrupted([&] { CHECK_THROWS_AS(barrier.wait(), mp::BrokenBarrierError); });
    CHECK(test::eventually([&] { return barrier.n_waiting() == 1; }));
    barrier.reset();
    interrupted.join();
    CHECK_FALSE(barrier.broken());
    barrier.abort();
    CHECK_THROWS_AS(barrier.wait(), mp::BrokenBarrierError);
}

TEST_CASE("the error of a broken barrier says what broke it, and which process",
          "[manager][barrier]") {
    using Catch::Matchers::Contains;
    mp::Manager manager;
    auto barrier = manager.barrier(2);
    const std::string self = "process " + std::to_string(::getpid());
    CHECK_THROWS_WITH(barrier.wait_for(1ms), Contains(self + " timed out"));
    barrier.reset();
    mp::Process other([](mp::BarrierProxy o) { o.abort(); }, barrier);
    other.start();
    other.join();
    const std::string another = "process " + std::to_string(other.pid());
    CHECK_THROWS_WITH(barrier.wait(), Contains(another + " called abort()"));
    barrier.reset();
    mp::Process waiting([](mp::BarrierProxy o) { o.wait(); }, barrier);
    waiting.start();
    CHECK(test::eventually([&] { return barrier.n_waiting() == 1; }));
    waiting.kill();
    waiting.join();
    CHECK(test::eventually([&] { return barrier.broken(); }));
    CHECK_THROWS_WITH(barrier.wait(),
                      Contains("process " + std::to_string(waiting.pid()) + " has gone"));
    barrier.reset();
    auto sent_away =
        barrier.submit<&mp::detail::BarrierObject::wait>(mp::Timeout::forever().time());
    CHECK(test::eventually([&] { return barrier.n_waiting() == 1; }));
    barrier.reset();
    CHECK_THROWS_WITH(sent_away.get(), Contains(self + " called reset(); wait() again"));
}

TEST_CASE("more calls wait than there are CPUs, and none holds up another", "[manager][event]") {
    mp::Manager manager;
    auto go = manager.event();
    auto value = manager.value<int>(0);
    std::vector<std::thread> threads;
    for (int i = 0; i < 60; ++i)
        threads.emplace_back([&] {
            go.wait();
            value.update([](int& n) { ++n; });
        });
    CHECK(value.get() == 0);
    go.set();
    for (auto& thread : threads) thread.join();
    CHECK(value.get() == 60);
}

}  // namespace sync_test
