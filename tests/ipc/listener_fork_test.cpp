// A Listener and its forked copies: none tells another what to do.
#include <sidestep/connection.hpp>

#include <unistd.h>

#include <atomic>
#include <optional>
#include <thread>

#include <catch2/catch.hpp>

#include "connection_support.hpp"

namespace listener_fork_test {

using namespace sidestep;
using namespace std::chrono_literals;
using test::RawPeer;

TEST_CASE("a forked copy that is closed or destroyed leaves its parent's listener alone",
          "[ipc][listener][fork]") {
    for (bool destroyed : {false, true}) {
        std::optional<Listener> listener(std::in_place);
        test::ForkedChild child([&] {
            Client(listener->address()).send_bytes("hi");
            destroyed ? listener.reset() : listener->close();
            return 0;
        });
        CHECK(listener->accept().recv_bytes() == "hi");
        CHECK(child.join() == 0);
        CHECK_FALSE(listener->closed());
        CHECK_FALSE(listener->accept_for(1ms));
        Connection client = Client(listener->address());
        CHECK(listener->accept_for(test::kPatience));
    }
}

TEST_CASE("a forked copy accepts, and its handshakes are its own", "[ipc][listener][fork]") {
    Listener listener({.authkey = "secret"});
    RawPeer early(listener.address());
    CHECK_FALSE(listener.accept_for(0s));  // the parent has begun this one's handshake
    auto [here, there] = Pipe();
    test::ForkedChild child([&, &end = there] {
        if (wait({listener}, test::kPatience).empty()) return 2;
        if (listener.accept_for(0s)) return 3;  // begins a handshake
        end.send(1);
        end.recv<int>();
        try {
            (void)listener.accept();
            return 4;
        } catch (const AuthenticationError&) {
        }
        end.send(1);
        Connection connection = listener.accept();
        connection.send(::getpid());
        listener.close();
        try {
            (void)listener.accept();
            return 5;
        } catch (const std::system_error&) {
            return 0;
        }
    });
    there.close();
    {
        RawPeer peer(listener.address());
        CHECK(here.recv<int>() == 1);
        peer.read_frame();  // the challenge: it is the child's
        peer.write_frame("garbage");
        CHECK(wait({listener}, 0s).empty());
        here.send(1);
        CHECK(here.recv<int>() == 1);
    }
    CHECK(Client(listener.address(), {.authkey = "secret"}).recv<int>() == child.pid());
    CHECK(child.join() == 0);
    early.write_frame("garbage");
    CHECK_THROWS_AS(listener.accept(), AuthenticationError);
}

TEST_CASE("a forked copy can be closed while a thread of the parent waits for peers",
          "[ipc][listener][fork]") {
    Listener listener;
    std::atomic<int> accepted{0};
    std::thread server([&] {
        for (; accepted < 2; ++accepted) (void)listener.accept();
    });
    Connection first = Client(listener.address());
    CHECK(test::eventually([&] { return accepted == 1; }));
    for (bool uses : {false, true}) {
        test::ForkedChild child([&] {
            if (uses) (void)listener.fd();
            listener.close();
            return 0;
        });
        CHECK(child.join() == 0);
    }
    Connection second = Client(listener.address());
    server.join();
}

}  // namespace listener_fork_test
