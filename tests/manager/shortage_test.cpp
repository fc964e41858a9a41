// A ManagerServer in a process that is short of something: its thread must not end the program.
#include <signal.h>

#include <cerrno>
#include <chrono>
#include <exception>
#include <memory>
#include <stdexcept>

#include <catch2/catch.hpp>

#include <sidestep/actor.hpp>
#include <sidestep/event.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/manager_server.hpp>
#include <sidestep/process.hpp>

#include "faults.hpp"
#include "handshake_failures.hpp"
#include "support.hpp"

namespace mp = sidestep;

namespace {

struct Sum {
    int sum = 0;
    int add(int n) { return sum += n; }
};

void use(const mp::Address& address, mp::Event connected) {
    auto there = mp::Manager::connect(address);
    there.get<Sum>("sum").call<&Sum::add>(1);
    connected.set();
    mp::Event().wait();  // until it is killed
}

}  // namespace

TEST_CASE("a server that cannot wait, for want of memory, goes on when there is some",
          "[manager][faults]") {
    mp::ManagerServer server;
    server.expose<&Sum::add>("sum", std::make_shared<Sum>());
    server.start();
    mp::Event connected;
    mp::Process client(&use, server.address(), connected);
    client.start();
    REQUIRE(connected.wait_for(test::kPatience));
    {
        // Its end wakes the server, which waits anew, and is the only one that does.
        test::Fault fault(test::Call::poll, ENOMEM, 0, 3);
        client.kill();
        CHECK(test::eventually([&] { return fault.happened(); }));
    }
    client.join();
    connected.clear();
    mp::Process another(&use, server.address(), connected);
    another.start();
    CHECK(connected.wait_for(test::kPatience));
    another.kill();
    another.join();
}

TEST_CASE("an actor that is kept begins, or its maker is told, whatever its keeper lacks",
          "[manager][actor][faults]") {
    const test::Call call = GENERATE(test::Call::send, test::Call::recvmsg);
    for (int skip = 0; skip < 10; ++skip) {
        test::Fault fault(call, ENOMEM, skip, 1, test::Fault::kForked);
        int sum = 1;
        try {
            mp::Actor<Sum> actor({.start_method = mp::StartMethod::fork, .max_restarts = 1});
            sum = actor.call<&Sum::add>(1);
        } catch (const std::exception&) {  // what failed
        }
        CHECK(sum == 1);
    }
}

TEST_CASE("an actor is started again, whatever its keeper lacks for a moment",
          "[manager][actor][faults][restart]") {
    const test::Call call = GENERATE(test::Call::poll, test::Call::allocation);
    bool lacks = true;
    for (int skip = 0; lacks; ++skip) {
        INFO("call " << skip);
        mp::Actor<Sum> actor(
            {.name = "kept", .start_method = mp::StartMethod::fork_threaded, .max_restarts = 1});
        int keeper = 0;
        for (const auto& child : mp::active_children())
            if (child.name() == "kept") keeper = child.pid();
        REQUIRE(keeper != actor.pid());
        CHECK(actor.call<&Sum::add>(1) == 1);
        test::Fault fault(call, ENOMEM, skip, 3, keeper);
        REQUIRE(::kill(actor.pid(), SIGKILL) == 0);
        CHECK(test::eventually([&] { return actor.restarts() == 1; }));
        CHECK(actor.call<&Sum::add>(2) == 2);
        lacks = fault.happened();
    }
}

TEST_CASE("who connects to an actor in vain does so for a while, and then has the reason",
          "[manager][actor][faults]") {
    auto fails = [](mp::detail::HandshakeFailures& failures) {
        try {
            throw std::runtime_error("the handshake's end");
        } catch (const std::runtime_error&) {
            failures.add();
        }
    };
    mp::detail::HandshakeFailures patient(std::chrono::hours(1)),
        hasty(std::chrono::nanoseconds(0));
    for (int i = 0; i < 100; ++i) CHECK_NOTHROW(fails(patient));
    CHECK_THROWS_WITH(fails(hasty), "the handshake's end");
    CHECK_THROWS_WITH(fails(hasty), "the handshake's end");
    // One that succeeded begins anew.
    mp::detail::HandshakeFailures other(std::chrono::microseconds(1));
    CHECK_NOTHROW(fails(other));
    other.clear();
    CHECK_NOTHROW(fails(other));
    CHECK(test::eventually([&] {
        try {
            fails(other);
            return false;
        } catch (const std::runtime_error&) {
            return true;
        }
    }));
}
