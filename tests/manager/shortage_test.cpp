// A ManagerServer in a process that is short of something: its thread must not end the program.
#include <signal.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/actor.hpp>
#include <sidestep/completions.hpp>
#include <sidestep/event.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/manager_server.hpp>
#include <sidestep/process.hpp>
#include <sidestep/when.hpp>

#include "faults.hpp"
#include "handshake_failures.hpp"
#include "no_threads.hpp"
#include "support.hpp"

namespace shortage_test {

namespace mp = sidestep;

namespace {

struct Sum {
    int sum = 0;
    int add(int n) { return sum += n; }
    int await(mp::Event event) {
        event.wait();
        return sum;
    }
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

TEST_CASE("a call whose end cannot be looked for leaves nobody listening", "[manager][faults]") {
    mp::Manager manager;
    auto event = manager.event();
    auto call = event.submit<&mp::detail::EventObject::wait>(std::chrono::nanoseconds::max());
    mp::Completions<bool> completions;
    std::atomic<int> called{0};
    {
        test::NoThreads none;
        CHECK_THROWS_AS(completions.add(call, 1), std::system_error);
        CHECK_THROWS_AS(call.add_done_callback([&](const auto&) { ++called; }), std::system_error);
    }
    call.add_done_callback([&](const auto&) { called += 10; });
    event.set();
    CHECK(test::eventually([&] { return called >= 10; }));
    CHECK(called == 10);
    CHECK(completions.size() == 0);
    CHECK_FALSE(completions.try_next());
}

TEST_CASE("when_all() of calls is told, whichever allocation fails where they are answered",
          "[manager][faults][memory]") {
    bool fails = true;
    for (int allocation = 0; fails; ++allocation) {
        INFO("allocation " << allocation);
        mp::Manager manager;
        auto sum = manager.make<Sum>();
        mp::Event go;
        auto call = sum.submit<&Sum::await>(go);
        auto all = mp::when_all(std::vector{call});
        bool done = false;
        {
            test::Fault fault(test::Call::allocation, ENOMEM, allocation);
            go.set();
            done = test::eventually([&] { return all.ready(); });
            fails = fault.happened();
        }
        CHECK(done);
    }
}

TEST_CASE("a call that could not be made for want of memory takes no place of another one",
          "[manager][actor][faults][memory]") {
    bool fails = true;
    for (int allocation = 0; fails; ++allocation) {
        INFO("allocation " << allocation);
        mp::Actor<Sum> actor({.start_method = mp::StartMethod::fork_threaded, .max_pending = 1});
        {
            test::Fault fault(test::Call::allocation, ENOMEM, allocation);
            try {
                (void)actor.submit<&Sum::add>(1);
            } catch (const std::bad_alloc&) {
            }
            fails = fault.happened();
        }
        std::atomic<bool> called{false};
        std::thread caller([&] {
            try {
                called = actor.call<&Sum::add>(1) > 0;
            } catch (const mp::ActorLost&) {  // it waited until the end
            }
        });
        CHECK(test::eventually([&] { return called.load(); }));
        actor.shutdown();
        caller.join();
    }
}

}  // namespace shortage_test
