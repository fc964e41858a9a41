// What each call of ipc that takes a time makes of each time that can be said.
#include <signal.h>

#include <catch2/catch.hpp>
#include <mutex>

#include <sidestep/barrier.hpp>
#include <sidestep/condition.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/event.hpp>
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/semaphore.hpp>

#include "process_support.hpp"
#include "time_cases.hpp"

namespace timeout_test {

using namespace sidestep;
using namespace std::chrono_literals;

namespace {

template <class LockType>
void check_lock(const char* name) {
    LockType lock;
    bool held = false;
    auto hold = [&] {
        if (!held) lock.lock();
        held = true;
    };
    auto let_go = [&] {
        lock.unlock();
        held = false;
    };
    test::check_durations(
        name, hold,
        [&](auto time) { return std::unique_lock(lock, Timeout(time).time()).owns_lock(); },
        let_go);
    test::check_times(
        name, hold,
        [&](auto time) {
            if (!lock.try_lock_for(time)) return false;
            lock.unlock();
            return true;
        },
        let_go);
    test::check_moments(
        name, hold,
        [&](auto moment) {
            if (!lock.try_lock_until(moment)) return false;
            lock.unlock();
            return true;
        },
        let_go);
    if (held) lock.unlock();
}

template <class SemaphoreType>
void check_semaphore(const char* name) {
    SemaphoreType semaphore(1);
    auto take = [&] { (void)semaphore.try_acquire(); };
    auto give = [&] { semaphore.release(); };
    test::check_times(
        name, take, [&](auto time) { return semaphore.try_acquire_for(time); }, give);
    test::check_moments(
        name, take, [&](auto moment) { return semaphore.try_acquire_until(moment); }, give);
}

void nothing() {}

void await_word(Connection connection) { (void)connection.recv<int>(); }

// Exit codes: what is not so.
int waits_for_parent(double seconds) {
    auto parent = *parent_process();
    if (parent.join_for(std::chrono::hours::min()) || parent.join_for(0s)) return 1;
    try {
        (void)parent.join_for(test::Seconds(test::kNaN));
        return 2;
    } catch (const std::invalid_argument&) {
    }
    return parent.join_for(test::Seconds(seconds)) ? 3 : 4;
}
void exit_with_what_waits(double seconds) { exit_process(waits_for_parent(seconds)); }

}  // namespace

TEST_CASE("locks and semaphores take each time", "[ipc][timeout]") {
    check_lock<Lock>("Lock");
    check_lock<RLock>("RLock");
    check_semaphore<Semaphore>("Semaphore");
    check_semaphore<BoundedSemaphore>("BoundedSemaphore");
}

TEST_CASE("an Event takes each time", "[ipc][timeout]") {
    Event event;
    auto clear = [&] { event.clear(); };
    auto set = [&] { event.set(); };
    test::check_times(
        "wait_for", clear, [&](auto time) { return event.wait_for(time); }, set);
    test::check_moments(
        "wait_until", clear, [&](auto moment) { return event.wait_until(moment); }, set);
}

TEST_CASE("a Condition takes each time", "[ipc][timeout]") {
    Condition changed;
    bool ready = false;
    auto make_ready = [&] {
        (void)test::eventually([&] {
            std::scoped_lock lock(changed);
            return changed.waiting() == 1;
        });
        std::scoped_lock lock(changed);
        ready = true;
        changed.notify_all();
    };
    auto forget = [&] { ready = false; };
    auto is_ready = [&] { return ready; };
    auto locked = [&](auto wait) {
        std::scoped_lock lock(changed);
        return wait();
    };
    test::check_times(
        "wait_for", forget,
        [&](auto time) { return locked([&] { return changed.wait_for(time); }); }, make_ready);
    test::check_times(
        "wait_for a predicate", forget,
        [&](auto time) { return locked([&] { return changed.wait_for(time, is_ready); }); },
        make_ready);
    test::check_moments(
        "wait_until", forget,
        [&](auto moment) { return locked([&] { return changed.wait_until(moment); }); },
        make_ready);
    test::check_moments(
        "wait_until a predicate", forget,
        [&](auto moment) { return locked([&] { return changed.wait_until(moment, is_ready); }); },
        make_ready);
}

TEST_CASE("a Barrier takes each time", "[ipc][timeout]") {
    Barrier barrier(2);
    auto arrives = [](Barrier& at, auto wait) {
        try {
            wait();
            return true;
        } catch (const BrokenBarrierError&) {
            at.reset();
            return false;
        }
    };
    test::check_times(
        "wait_for", nothing,
        [&](auto time) { return arrives(barrier, [&] { (void)barrier.wait_for(time); }); },
        [&] { (void)barrier.wait(); });
    std::optional<Barrier> own;
    test::check_durations(
        "BarrierOptions::timeout", nothing,
        [&](auto time) {
            own.emplace(2, BarrierOptions{.timeout = time});
            return arrives(*own, [&] { (void)own->wait(); });
        },
        [&] { (void)own->wait(); });
}

TEST_CASE("queues take each time", "[ipc][timeout]") {
    Queue<int> queue(1);
    auto empty = [&] { (void)queue.try_get(); };
    auto fill = [&] { (void)queue.try_put(1); };
    test::check_times(
        "get_for", empty, [&](auto time) { return queue.get_for(time).has_value(); }, fill);
    test::check_times(
        "get_many_for", empty, [&](auto time) { return !queue.get_many_for(3, time).empty(); },
        fill);
    test::check_moments(
        "get_until", empty, [&](auto moment) { return queue.get_until(moment).has_value(); }, fill);
    test::check_times(
        "put_for", fill, [&](auto time) { return queue.put_for(2, time); }, empty);
    test::check_moments(
        "put_until", fill, [&](auto moment) { return queue.put_until(2, moment); }, empty);
    JoinableQueue<int> tasks;
    auto begin = [&] {
        if (tasks.unfinished() == 0) tasks.put(1);
    };
    test::check_times(
        "join_for", begin, [&](auto time) { return tasks.join_for(time); },
        [&] { tasks.task_done(); });
}

TEST_CASE("poll and wait take each time", "[ipc][timeout]") {
    auto [reader, writer] = Pipe();
    auto drain = [&, &in = reader] {
        while (in.poll()) (void)in.template recv<int>();
    };
    auto send = [&, &out = writer] { out.send(1); };
    test::check_times(
        "poll", drain, [&, &in = reader](auto time) { return in.poll(time); }, send);
    test::check_times(
        "wait", drain, [&, &in = reader](auto time) { return !wait({in}, time).empty(); }, send);
}

TEST_CASE("a Listener and a Client take each time", "[ipc][timeout]") {
    Listener listener;
    std::optional<Connection> peer;
    test::check_times(
        "accept_for", nothing, [&](auto time) { return listener.accept_for(time).has_value(); },
        [&] { peer = Client(listener.address()); });
    test::each_eternity([&](auto time) {
        Listener guarded({.authkey = "key", .handshake_timeout = time});
        auto accepted = std::async(std::launch::async, [&] { return guarded.accept(); });
        Connection client = Client(guarded.address(), {.authkey = "key", .timeout = time});
        Connection server = accepted.get();
        client.send(7);
        CHECK(server.recv<int>() == 7);
    });
    test::each_time_past([&](auto time) {
        CHECK_THROWS_AS(Listener({.handshake_timeout = time}), std::invalid_argument);
        CHECK_THROWS_AS(Client(listener.address(), {.timeout = time}), std::invalid_argument);
    });
    CHECK_THROWS_AS(Client(listener.address(), {.timeout = test::Seconds(test::kNaN)}),
                    std::invalid_argument);
    CHECK_THROWS_AS(Listener({.handshake_timeout = test::Seconds(test::kNaN)}),
                    std::invalid_argument);
}

TEST_CASE("a Client that has for ever waits for a slow handshake", "[ipc][timeout]") {
    std::optional<Listener> listener(std::in_place, ListenerOptions{.authkey = "key"});
    test::check_durations(
        "ClientOptions::timeout", nothing,
        [&](auto time) {
            if (Timeout(time).count() <= 0) return false;
            try {
                (void)Client(listener->address(), {.authkey = "key", .timeout = time});
                return true;
            } catch (const std::exception&) {
                return false;
            }
        },
        [&] { (void)listener->accept(); });
}

TEST_CASE("Process::join_for takes each time", "[ipc][timeout]") {
    FOR_EACH_START_METHOD();
    std::optional<Process> child;
    std::optional<Connection> end;
    auto let_go = [&] {
        if (end) end->send(1);
        end.reset();
    };
    auto start = [&] {
        let_go();
        child.reset();
        auto [ours, theirs] = Pipe();
        child.emplace(ProcessOptions{.start_method = method}, await_word, std::move(theirs));
        child->start();
        end = std::move(ours);
    };
    test::check_times(
        "join_for", start, [&](auto time) { return child->join_for(time); }, let_go);
    let_go();
}

TEST_CASE("ParentProcess::join_for takes each time", "[ipc][timeout]") {
    FOR_EACH_START_METHOD();
    Process waits_long({.start_method = method}, exit_with_what_waits, test::kInfinity);
    waits_long.start();
    Process waits_shortly({.start_method = method}, exit_with_what_waits, 1e-3);
    waits_shortly.start();
    CHECK(waits_shortly.join().code() == 4);
    CHECK_FALSE(waits_long.join_for(10ms));  // the parent lives, and so it waits
    waits_long.kill();
    CHECK(waits_long.join().signal() == SIGKILL);
}

}  // namespace timeout_test
