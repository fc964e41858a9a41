#include <sidestep/wait.hpp>

#include <signal.h>
#include <unistd.h>
#include <sidestep/connection.hpp>

#include <algorithm>
#include <catch2/catch.hpp>
#include <thread>

#include "connection_support.hpp"

namespace wait_test {

using namespace sidestep;
using namespace std::chrono_literals;
using test::ForkedChild;

namespace {

using Clock = std::chrono::steady_clock;
using Messages = std::vector<std::pair<int, int>>;

constexpr int kWriters = 4;
constexpr int kMessages = 10;

Messages expected_messages() {
    Messages all;
    for (int i = 0; i < kMessages; ++i)
        for (int writer = 0; writer < kWriters; ++writer) all.emplace_back(i, writer);
    return all;
}

// Every message of every reader until each is at its end, whichever is ready.
Messages drain(std::vector<Connection> readers) {
    Messages all;
    while (!readers.empty()) {
        std::vector<Waitable> things(readers.begin(), readers.end());
        for (const Waitable& ready : wait(things)) {
            auto reader = std::find_if(readers.begin(), readers.end(),
                                       [&](const Connection& c) { return ready == c; });
            try {
                all.push_back(reader->recv<std::pair<int, int>>());
            } catch (const EndOfStream&) {
                readers.erase(reader);
            }
        }
    }
    std::sort(all.begin(), all.end());
    return all;
}

// `hesitates`: messages come one at a time, with the reader asleep in between.
int write_messages(Connection& connection, int writer, bool hesitates) {
    for (int i = 0; i < kMessages; ++i) {
        if (hesitates) test::eventually([] { return false; }, std::chrono::milliseconds(i));
        connection.send(std::make_pair(i, writer));
    }
    connection.close();
    return 0;
}

Messages from_pipes(bool slow) {
    std::vector<Connection> readers;
    std::vector<std::unique_ptr<ForkedChild>> children;
    for (int writer = 0; writer < kWriters; ++writer) {
        auto [r, w] = Pipe({.duplex = false});
        children.push_back(std::make_unique<ForkedChild>([&, writer, &reader = r, &end = w] {
            reader.close();
            readers.clear();
            return write_messages(end, writer, slow);
        }));
        w.close();
        readers.push_back(std::move(r));
    }
    Messages all = drain(std::move(readers));
    for (auto& child : children) CHECK(child->join() == 0);
    return all;
}

Messages from_sockets(bool slow) {
    Listener listener({.address = TcpAddress{}});
    std::vector<Connection> readers;
    std::vector<std::unique_ptr<ForkedChild>> children;
    for (int writer = 0; writer < kWriters; ++writer)
        children.push_back(std::make_unique<ForkedChild>([&, writer] {
            Connection connection = Client(listener.address());
            return write_messages(connection, writer, slow);
        }));
    for (int i = 0; i < kWriters; ++i) readers.push_back(listener.accept());
    Messages all = drain(std::move(readers));
    for (auto& child : children) CHECK(child->join() == 0);
    return all;
}

}  // namespace

TEST_CASE("wait on pipes of several processes sees every message and every end",
          "[ipc][wait][py:TestWait.test_wait]") {
    CHECK(from_pipes(false) == expected_messages());
}

TEST_CASE("wait on pipes of slow processes sees every message and every end",
          "[ipc][wait][py:TestWait.test_wait_slow]") {
    CHECK(from_pipes(true) == expected_messages());
}

TEST_CASE("wait on TCP connections sees every message and every end",
          "[ipc][wait][py:TestWait.test_wait_socket]") {
    CHECK(from_sockets(false) == expected_messages());
}

TEST_CASE("wait on TCP connections of slow processes sees every message and every end",
          "[ipc][wait][py:TestWait.test_wait_socket_slow]") {
    CHECK(from_sockets(true) == expected_messages());
}

TEST_CASE("wait returns nothing at its timeout, and at once when something is ready",
          "[ipc][wait][py:TestWait.test_wait_timeout]") {
    auto [a, b] = Pipe();
    auto start = Clock::now();
    CHECK(wait({a, b}, 100ms).empty());
    CHECK(Clock::now() - start >= 100ms);
    b.send(0);
    start = Clock::now();
    auto ready = wait({a, b}, test::kPatience);
    REQUIRE(ready.size() == 1);
    CHECK(ready[0] == a);
    CHECK(Clock::now() - start < test::kPatience);
}

TEST_CASE("sentinels, which are plain numbers, mix with connections; the order is the caller's",
          "[ipc][wait][py:TestWait.test_wait_integer]") {
    auto [a, b] = Pipe();
    auto [go, told] = Pipe();
    ForkedChild child([&end = told] { return end.recv<int>(); });
    CHECK(wait({a, child.sentinel(), b}, 20ms).empty());
    go.send(0);
    std::vector<Waitable> sentinel = {child.sentinel()}, with_b = {child.sentinel(), b},
                          all = {a, child.sentinel(), b};
    CHECK(wait({a, child.sentinel(), b}, test::kPatience) == sentinel);
    a.send(0);
    CHECK(wait({a, child.sentinel(), b}, test::kPatience) == with_b);
    b.send(0);
    CHECK(wait({a, child.sentinel(), b}, test::kPatience) == all);
    CHECK(child.join() == 0);
}

TEST_CASE("a negative timeout looks once", "[ipc][wait][py:TestWait.test_neg_timeout]") {
    auto [a, b] = Pipe();
    CHECK(wait({a}, -1s).empty());
    b.send(0);
    CHECK(wait({a}, -1s).size() == 1);
}

TEST_CASE("wait on nothing, on a closed thing, on a number that is not open", "[ipc][wait]") {
    CHECK(wait({}, 1ms).empty());
    auto [a, b] = Pipe();
    b.close();
    CHECK(wait({a}).size() == 1);  // the end of the stream is something to receive
    a.close();
    CHECK_THROWS_AS(wait({a}), std::system_error);
    CHECK_THROWS_AS(wait({-1}), std::invalid_argument);
    CHECK_THROWS_AS(wait({44977608}), std::system_error);
}

}  // namespace wait_test
