#include <poll.h>

#include <memory>
#include <thread>

#include <catch2/catch.hpp>

#include <sidestep/queue.hpp>
#include <sidestep/wait.hpp>

#include "processes.hpp"

namespace queue_poll_test {

using sidestep::Queue;
using namespace std::chrono_literals;

namespace {

bool readable(int fd, std::chrono::milliseconds patience = 0ms) {
    pollfd entry = {.fd = fd, .events = POLLIN, .revents = 0};
    return poll(&entry, 1, static_cast<int>(patience.count())) == 1;
}

}  // namespace

TEST_CASE("a queue's descriptor is readable while there are items", "[ipc][queue][poll]") {
    Queue<int> queue;
    CHECK_FALSE(readable(queue.fd()));
    queue.put(1);
    CHECK(readable(queue.fd()));
    queue.put(2);
    (void)queue.get();
    CHECK(readable(queue.fd()));
    (void)queue.get();
    CHECK_FALSE(readable(queue.fd()));
    Queue<int> filled;
    filled.put(1);
    CHECK(readable(filled.fd()));
    Queue<int> shut;
    int fd = shut.fd();
    shut.shut_down();
    CHECK(readable(fd));
}

TEST_CASE("polling consumers get everything that other processes put", "[ipc][queue][poll]") {
    constexpr int kItems = 5000;
    Queue<int> queue;
    test::SharedPage<std::atomic<int>> got;
    std::vector<test::Child> consumers;
    for (int i = 0; i < 2; ++i)
        consumers.emplace_back([&] {
            int fd = queue.fd();
            while (*got < kItems) {
                if (!readable(fd, 10ms)) continue;
                while (queue.try_get()) ++*got;
            }
        });
    test::Child producer([&] {
        for (int i = 0; i < kItems; ++i) queue.put(i);
    });
    CHECK(producer.wait() == 0);
    for (test::Child& consumer : consumers) CHECK(consumer.wait() == 0);
    CHECK(*got == kItems);
    CHECK_FALSE(readable(queue.fd()));
}

TEST_CASE("kill at every instruction of put and get of a polled queue: never silent",
          "[ipc][queue][poll][kill]") {
    Queue<int> queue;
    int fd = queue.fd();
    bool getting = GENERATE(false, true);
    auto prepare = [&] {
        queue.put(0);
        if (!getting) (void)queue.get();
    };
    auto operation = [&] {
        if (getting)
            (void)queue.get();
        else
            queue.put(1);
    };
    test::kill_at_every_instruction(prepare, operation, [&](unsigned k) {
        INFO("killed after instruction " << k);
        if (queue.size() > 0) CHECK(readable(fd));
        while (queue.try_get()) {
        }
        CHECK_FALSE(readable(fd));
    });
}

TEST_CASE("kill at every instruction of fd(): what is there is seen", "[ipc][queue][poll][kill]") {
    auto queue = std::make_unique<Queue<int>>();
    queue->put(1);
    auto warm_up = [&] {
        Queue<int> other;
        other.put(1);
        (void)other.fd();
    };
    test::kill_at_every_instruction(
        warm_up, [&] { (void)queue->fd(); },
        [&](unsigned k) {
            INFO("killed after instruction " << k);
            CHECK(readable(queue->fd()));
            CHECK(queue->try_get() == 1);
            CHECK_FALSE(readable(queue->fd()));
            queue = std::make_unique<Queue<int>>();
            queue->put(1);
        });
}

TEST_CASE("kill at every instruction of shut_down(): a queue that is shut is readable",
          "[ipc][queue][poll][kill]") {
    auto queue = std::make_unique<Queue<int>>();
    (void)queue->fd();
    auto warm_up = [] {
        Queue<int> other;
        (void)other.fd();
        other.shut_down();
    };
    int shut = 0;
    auto is_shut = [&] {
        try {
            return !queue->try_put(1);
        } catch (const sidestep::PutAfterShutDown&) {
            return true;
        }
    };
    test::kill_at_every_instruction(
        warm_up, [&] { queue->shut_down(); },
        [&](unsigned k) {
            INFO("killed after instruction " << k);
            bool seen = readable(queue->fd());
            if (is_shut()) {
                ++shut;
                CHECK(seen);
            }
            queue = std::make_unique<Queue<int>>();
            (void)queue->fd();
        });
    CHECK(shut > 0);
}

TEST_CASE("a queue with items on loan cannot be polled, and says so", "[ipc][queue][poll][lease]") {
    sidestep::JoinableQueue<int> queue({.lease = true});
    CHECK_THROWS_AS(queue.fd(), std::logic_error);
    CHECK_THROWS_WITH(sidestep::wait({queue}, 1ms), Catch::Contains("get_for()"));
    CHECK_FALSE(readable(sidestep::JoinableQueue<int>().fd()));
}

}  // namespace queue_poll_test
