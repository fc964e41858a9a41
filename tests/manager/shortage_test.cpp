// A ManagerServer in a process that is short of something: its thread must not end the program.
#include <cerrno>
#include <exception>
#include <memory>

#include <catch2/catch.hpp>

#include <sidestep/actor.hpp>
#include <sidestep/event.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/manager_server.hpp>
#include <sidestep/process.hpp>

#include "faults.hpp"
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
