// A server of objects in which one allocation fails: that costs a client one call at most, which is
// told why.
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <new>
#include <tuple>
#include <utility>

#include <catch2/catch.hpp>

#include <sidestep/actor.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/manager.hpp>

#include "faults.hpp"
#include "manager_support.hpp"
#include "object_frame.hpp"
#include "support.hpp"

namespace memory_test {

namespace mp = sidestep;
using namespace std::chrono_literals;
using mp::detail::EventObject;
using mp::detail::FrameKind;
using mp::detail::MethodBody;
using mp::detail::ObjectFrame;

namespace {

struct Sum {
    int sum = 0;
    int add(int n) { return sum += n; }
    void hang() {
        for (;;) ::pause();
    }
};

// As it arrives elsewhere.
mp::Proxy<Sum> sent(const mp::Proxy<Sum>& proxy) {
    mp::detail::HeapBuffer buffer;
    mp::OutputArchive output(buffer);
    output(proxy);
    mp::InputArchive input(buffer.bytes());
    mp::Proxy<Sum> copy;
    input(copy);
    return copy;
}

// False: what `use` does in the process needs no more allocations. What it throws is that one
// failed.
template <class Use>
bool fails_at(int allocation, int pid, const Use& use) {
    test::Fault fault(test::Call::allocation, ENOMEM, allocation, 1, pid);
    try {
        use();
    } catch (const std::bad_alloc&) {
    }
    return fault.happened();
}

// Calls of an event, by hand.
template <auto method, class... Args>
void send_call(mp::Connection& client, std::uint64_t event, std::uint64_t request,
               std::uint64_t caller, std::chrono::nanoseconds timeout, Args... arguments) {
    mp::detail::HeapBuffer body;
    mp::OutputArchive archive(body);
    archive(std::tuple(arguments...));
    ObjectFrame call;
    call.head = {.kind = FrameKind::call,
                 .request = request,
                 .caller = caller,
                 .object = event,
                 .task = mp::detail::task_id<MethodBody<EventObject, method, Args...>>(),
                 .timeout = static_cast<std::uint64_t>(timeout.count())};
    call.body = body.bytes();
    client.send(call);
}

// Whether the request is answered, behind what was asked before.
bool reads_answer(mp::Connection& client, std::uint64_t request) {
    while (client.poll(test::kPatience)) {
        const auto frame = client.recv<ObjectFrame>();
        if (frame.head.request == request && frame.head.kind != FrameKind::waits) return true;
    }
    return false;
}

}  // namespace

TEST_CASE("an allocation that fails in the server costs a call, and nothing that its client holds",
          "[manager][faults][memory]") {
    int allocation = 0;
    for (bool fails = true; fails; ++allocation) {
        INFO("allocation " << allocation);
        mp::Manager manager({.start_method = mp::StartMethod::fork_threaded});
        auto lock = manager.lock();
        lock.lock();
        auto proxy = manager.make<Sum>();
        fails = fails_at(allocation, manager.pid(), [&] {
            const int first = proxy.with({.timeout = 1h}).call<&Sum::add>(1);
            proxy = sent(proxy);
            const bool acquired = manager.semaphore(0).try_acquire_for(1ms);
            const int second = proxy.call<&Sum::add>(1);
            CHECK((first == 1 && second == 2 && !acquired));
        });
        CHECK(proxy.call<&Sum::add>(1) > 0);
        CHECK(lock.holder() == ::getpid());
        lock.unlock();
    }
    CHECK(allocation > 20);
}

TEST_CASE("a call whose time is up is told so when there is memory again",
          "[manager][faults][memory][timeout]") {
    constexpr std::uint64_t kMany = 2000, kLast = kMany + 2;
    bool fails = true;
    for (int allocation = 0; fails; ++allocation) {
        INFO("allocation " << allocation);
        mp::Manager manager({.start_method = mp::StartMethod::fork_threaded});
        auto event = manager.event(), read = manager.event();
        const auto server = test::server_of(event);
        auto deaf = mp::Client(server.address, {.authkey = server.authkey});
        // Their answers fill what the kernel keeps for it: what it is told then waits in the
        // server.
        for (std::uint64_t request = 1; request <= kMany; ++request)
            send_call<&EventObject::is_set>(deaf, event.number(), request, 1, 0ns);
        send_call<&EventObject::set>(deaf, read.number(), kMany + 1, 2, 0ns);
        REQUIRE(read.wait_for(test::kPatience));
        std::size_t waiting = 0;
        CHECK(test::eventually([&] {
            const std::size_t before = std::exchange(waiting, manager.stats().waiting);
            return waiting == before;
        }));
        test::Fault fault(test::Call::allocation, ENOMEM, allocation, 1, manager.pid());
        send_call<&EventObject::wait>(deaf, event.number(), kLast, 3, 1ms,
                                      mp::Timeout::forever().time());
        const auto end = std::chrono::steady_clock::now() + 100ms;
        (void)test::eventually(
            [&] { return fault.happened() || std::chrono::steady_clock::now() > end; });
        fails = fault.happened();
        CHECK(reads_answer(deaf, kLast));
    }
}

TEST_CASE("an actor that hangs is ended, though an allocation fails where that is done",
          "[manager][actor][faults][memory][timeout]") {
    int allocation = 0;
    for (bool fails = true; fails; ++allocation) {
        INFO("allocation " << allocation);
        mp::Actor<Sum> actor({.start_method = mp::StartMethod::fork_threaded, .timeout_grace = 0s});
        CHECK(actor.call<&Sum::add>(1) == 1);
        fails = fails_at(allocation, actor.pid(), [&] {
            auto hangs = actor.with({.timeout = 1ms}).submit<&Sum::hang>();
            REQUIRE(hangs.wait_for(test::kPatience));
            try {
                hangs.get();
                FAIL("it was answered");
            } catch (const mp::CallTimeout&) {
            }
        });
    }
    CHECK(allocation > 5);
}

}  // namespace memory_test
