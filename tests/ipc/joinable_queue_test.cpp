#include <functional>

#include <catch2/catch.hpp>

#include <sidestep/queue.hpp>

#include "processes.hpp"

namespace joinable_queue_test {

using sidestep::JoinableQueue;
using namespace std::chrono_literals;

TEST_CASE("join waits until all items are done", "[ipc][queue][py:_TestQueue.test_task_done]") {
    JoinableQueue<std::optional<int>> queue;
    std::vector<test::Child> workers;
    test::SharedPage<std::atomic<int>> done;
    for (int i = 0; i < 4; ++i)
        workers.emplace_back([&] {
            while (auto item = queue.get()) {
                ++*done;
                queue.task_done();
            }
        });
    for (int i = 0; i < 10; ++i) queue.put(i);
    queue.join();
    CHECK(*done == 10);
    for (int i = 0; i < 4; ++i) queue.put(std::nullopt);
    for (test::Child& worker : workers) CHECK(worker.wait() == 0);
    CHECK(queue.unfinished() == 4);
}

TEST_CASE("task_done is called once for each item", "[ipc][queue]") {
    bool lease = GENERATE(false, true);
    JoinableQueue<int> queue({.lease = lease});
    queue.join();
    CHECK_THROWS_AS(queue.task_done(), std::logic_error);
    queue.put(1);
    CHECK(queue.unfinished() == 1);
    CHECK_FALSE(queue.join_for(5ms));
    CHECK(queue.get() == 1);
    CHECK_FALSE(queue.join_for(5ms));
    queue.task_done();
    CHECK(queue.join_for(0s));
    CHECK_THROWS_AS(queue.task_done(), std::logic_error);
}

TEST_CASE("an item on loan comes back when its process dies", "[ipc][queue][lease]") {
    JoinableQueue<std::string> queue({.lease = true});
    std::string large(100000, 'l');
    queue.put("a");
    queue.put(large);
    queue.put("c");
    test::SharedPage<std::atomic<int>> got;
    test::Child victim([&] {
        (void)queue.get();
        queue.task_done();  // "a" is done
        (void)queue.get();
        *got = 1;
        for (;;) pause();
    });
    REQUIRE(test::eventually([&] { return *got == 1; }));
    SECTION("to one who comes after") {
        CHECK(queue.get() == "c");
        queue.task_done();
        CHECK(queue.unfinished() == 1);
        CHECK_FALSE(queue.try_get());
        victim.kill();
        CHECK(queue.get() == large);
    }
    SECTION("to one who waits") {
        CHECK(queue.get() == "c");
        queue.task_done();
        test::Child waiter([&] { return queue.get() == large ? 0 : 1; });
        victim.kill();
        CHECK(waiter.wait() == 0);
        CHECK(queue.get() == large);  // the waiter has died, too
    }
    SECTION("although the queue is never empty") {
        victim.kill();
        bool found = test::eventually([&] {
            queue.put("more");
            bool same = queue.get() == large;
            if (!same) queue.task_done();
            return same;
        });
        CHECK(found);
        while (queue.try_get()) queue.task_done();
    }
    queue.task_done();
    CHECK(queue.join_for(0s));
}

TEST_CASE("a stopped process keeps what it has on loan", "[ipc][queue][lease]") {
    JoinableQueue<int> queue({.lease = true});
    queue.put(1);
    test::SharedPage<std::atomic<int>> got;
    test::Child holder([&] {
        (void)queue.get();
        *got = 1;
        for (;;) pause();
    });
    REQUIRE(test::eventually([&] { return *got == 1; }));
    holder.signal(SIGSTOP);
    CHECK_FALSE(queue.get_for(200ms));
    holder.kill();
    CHECK(queue.get_for(test::kPatience) == 1);
    queue.task_done();
}

TEST_CASE("256 items are on loan at most", "[ipc][queue][lease]") {
    JoinableQueue<int> queue({.lease = true});
    for (int i = 0; i < 300; ++i) queue.put(i);
    std::vector<int> got = queue.get_many(300);
    CHECK(got.size() == 256);
    CHECK_THROWS_AS(queue.get(), std::logic_error);
    for (int i = 0; i < 256; ++i) queue.task_done();
    CHECK(queue.get_many(300).size() == 44);
    for (int i = 0; i < 44; ++i) queue.task_done();
    CHECK(queue.join_for(0s));
}

TEST_CASE("an item that is too large for a loan is refused, and the message says so",
          "[ipc][queue][lease]") {
    std::string large(17 << 20, 'x');
    JoinableQueue<std::string> queue({.lease = true});
    CHECK_THROWS_WITH(queue.put(large),
                      Catch::Contains("16777216 bytes") && !Catch::Contains("max_bytes"));
    JoinableQueue<std::string> small({.max_bytes = 1 << 20, .lease = true});
    CHECK_THROWS_AS(small.put(large), std::length_error);
    CHECK_THROWS_WITH(small.put(large), Catch::Contains(".max_bytes"));
}

TEST_CASE("kill at every instruction of get and task_done on loan: each item once",
          "[ipc][queue][lease][kill]") {
    JoinableQueue<int> queue({.lease = true});
    queue.put(0);
    auto warm_up = [&] {
        (void)queue.size();
        sidestep::JoinableQueue<int> other({.lease = true});
        other.put(1);
        (void)other.get();
        other.task_done();
    };
    int item = 0, done = 0, returned = 0;
    auto operation = [&] {
        (void)queue.get();
        queue.task_done();
    };
    test::kill_at_every_instruction(warm_up, operation, [&](unsigned k) {
        INFO("killed after instruction " << k);
        if (queue.unfinished() == 0) {
            ++done;
        } else {
            REQUIRE(queue.get_for(test::kPatience) == item);
            ++returned;
            queue.task_done();
        }
        REQUIRE(queue.unfinished() == 0);
        REQUIRE(queue.empty());
        queue.put(++item);
    });
    CHECK(done > 0);
    CHECK(returned > 10);
    while (queue.try_get()) queue.task_done();
}

namespace {

// Single-steps a child through f, and kills it as soon as condition() holds. False: it never did.
bool kill_as_soon_as(const std::function<bool()>& condition, const std::function<void()>& f) {
    test::OneCpu pinned;
    test::Child child([&] {
        ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
        ::raise(SIGSTOP);
        f();
    });
    int status = 0;
    ::waitpid(child.pid(), &status, 0);
    while (WIFSTOPPED(status) && !condition()) {
        if (::ptrace(PTRACE_SINGLESTEP, child.pid(), nullptr, nullptr) < 0) break;
        ::waitpid(child.pid(), &status, 0);
    }
    bool held = WIFSTOPPED(status) && condition();
    if (WIFSTOPPED(status)) child.kill();
    return held;
}

}  // namespace

TEST_CASE("who is killed between its loan and the ring's head leaves the item once",
          "[ipc][queue][lease][kill]") {
    JoinableQueue<int> queue({.lease = true});
    queue.put(1);
    queue.put(2);
    REQUIRE(queue.get() == 1);
    // On loan already, and still in the ring.
    REQUIRE(kill_as_soon_as([&] { return queue.unfinished() == 3; }, [&] { (void)queue.get(); }));
    SECTION("for one who ends a loan first") {
        queue.task_done();
        CHECK(queue.unfinished() == 1);
        CHECK(queue.get() == 2);
    }
    SECTION("for one who gets first") {
        CHECK(queue.get() == 2);
        CHECK(queue.unfinished() == 2);
        queue.task_done();
    }
    CHECK_FALSE(queue.try_get());
    queue.task_done();
    CHECK(queue.unfinished() == 0);
}

}  // namespace joinable_queue_test
