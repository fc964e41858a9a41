// What one client, one call or one frame must not do to a server, and to the others.
#include <catch2/catch.hpp>

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <sidestep/actor.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/event.hpp>
#include <sidestep/listener.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/process.hpp>

#include "manager_support.hpp"
#include "object_frame.hpp"
#include "process_support.hpp"
#include "support.hpp"

namespace server_fault_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;
using mp::detail::FrameKind;
using mp::detail::ObjectFrame;
using test::server_of;

namespace {

struct Gate {
    int knock() const { return 1; }
    std::string large(mp::Event begun) const {
        begun.set();
        return std::string(8 << 20, 'g');  // more than a socket takes that nobody reads
    }
};
// The end waits for what runs, and reads answers that the server could not send yet.
template <class Owner, class Called>
void check_end_reads(Owner& owner, const Called& called) {
    mp::Event begun;
    auto large = called.template submit<&Gate::large>(begun);
    begun.wait();
    owner.shutdown();
    CHECK(large.get().size() == 8 << 20);
    CHECK_THROWS_AS(called.template call<&Gate::knock>(), mp::ActorLost);
}
// Stops the server that it is in.
struct Switch {
    mp::ManagerServer* server = nullptr;
    void off() { server->stop(); }
};

// A call of an event, by hand.
ObjectFrame is_set_call(std::uint64_t event) {
    ObjectFrame call;
    call.head.kind = FrameKind::call;
    call.head.caller = 1;
    call.head.object = event;
    call.head.task = mp::detail::task_id<
        mp::detail::MethodBody<mp::detail::EventObject, &mp::detail::EventObject::is_set>>();
    return call;
}

mp::EventProxy proxy_at(const mp::detail::ServerName& server) {
    mp::detail::HeapBuffer buffer;
    mp::OutputArchive output(buffer);
    output(true, server, std::uint64_t(1), true, std::uint64_t(0));
    mp::InputArchive input(buffer.bytes());
    mp::EventProxy proxy;
    input(proxy);
    return proxy;
}

}  // namespace

TEST_CASE("a client that does not read what it is told holds up nobody in its object",
          "[manager][server]") {
    mp::Manager manager;
    auto event = manager.event();
    const auto server = server_of(event);
    auto deaf = mp::Client(server.address, {.authkey = server.authkey});
    // Answers to these fill what the kernel keeps for it.
    ObjectFrame call = is_set_call(event.number());
    for (call.head.request = 1; call.head.request <= 2000; ++call.head.request) deaf.send(call);
    // This one waits, and tells so first.
    mp::detail::HeapBuffer body;
    mp::OutputArchive archive(body);
    archive(std::tuple(mp::Timeout::forever().time()));
    call.head.caller = 2;
    call.head.task = mp::detail::task_id<mp::detail::MethodBody<
        mp::detail::EventObject, &mp::detail::EventObject::wait, std::chrono::nanoseconds>>();
    call.body = body.bytes();
    deaf.send(call);
    for (int i = 0; i < 100; ++i) CHECK_FALSE(event.is_set());
    event.set();
    CHECK(event.is_set());
}

TEST_CASE("a dead client's call that waits in an object which nobody has any more is given up",
          "[manager][server]") {
    mp::Manager manager({.stop_grace = test::kPatience});
    auto started = manager.event();
    mp::Process client(
        [](mp::Proxy<mp::detail::EventObject> never, mp::EventProxy s) {
            auto waits =
                never.submit<&mp::detail::EventObject::wait>(mp::Timeout::forever().time());
            never = {};  // the call is all that refers to it
            s.set();
            waits.get();
        },
        mp::Proxy<mp::detail::EventObject>(manager.event()), started);
    client.start();
    started.wait();
    client.kill();
    client.join();
    manager.shutdown();
    CHECK(manager.exitcode() == 0);  // not killed, since a call waited for ever
}

TEST_CASE("a ManagerServer is started once: start beside serve throws", "[manager][server]") {
    mp::ManagerServer server;
    server.expose<&Gate::knock>("gate", std::make_shared<Gate>());
    std::thread serving([&] { server.serve(); });
    auto here = mp::Manager::connect(server.address());
    CHECK(here.get<Gate>("gate").call<&Gate::knock>() == 1);
    CHECK_THROWS_AS(server.start(), std::logic_error);
    CHECK_THROWS_AS(server.serve(), std::logic_error);
    CHECK(here.get<Gate>("gate").call<&Gate::knock>() == 1);
    server.stop();
    serving.join();
    server.start();  // of one that was stopped: nothing
    mp::ManagerServer other;
    other.start();
    CHECK_THROWS_AS(other.start(), std::logic_error);
}

TEST_CASE("stop() from within a call ends the server when the call has ended",
          "[manager][server]") {
    mp::ManagerServer server;
    auto button = std::make_shared<Switch>();
    button->server = &server;
    server.expose<&Switch::off>("switch", button);
    server.start();
    {
        auto there = mp::Manager::connect(server.address());
        there.get<Switch>("switch").call<&Switch::off>();
    }
    server.stop();
    CHECK_THROWS(mp::Manager::connect(server.address()));
}

TEST_CASE("what a client cannot read is told as the cause of its lost calls", "[manager][server]") {
    mp::Listener listener({.authkey = "key"});
    std::thread server([&] {
        auto client = listener.accept();
        (void)client.recv<ObjectFrame>();  // claim
        (void)client.recv<ObjectFrame>();  // call
        client.send(std::string("no frame"));
        CHECK_THROWS(client.recv<ObjectFrame>());
    });
    mp::detail::ServerName name;
    name.address = listener.address();
    name.authkey = "key";
    auto proxy = proxy_at(name);
    try {
        (void)proxy.is_set();
        FAIL("it was answered");
    } catch (const mp::ActorLost& lost) {
        CHECK_THAT(lost.what(), Contains("cannot be reached") && Contains("another type"));
    }
    server.join();
    proxy = {};
    mp::Manager next;  // links that have ended go when another one is made
}

TEST_CASE("shutdown() reads what calls that ran have answered", "[manager][actor][end]") {
    mp::Manager manager({.stop_grace = 1h});
    check_end_reads(manager, manager.make<Gate>());
    mp::Actor<Gate> once({.stop_grace = 1h}), sturdy({.max_restarts = 1, .stop_grace = 1h});
    check_end_reads(once, once.proxy());
    check_end_reads(sturdy, sturdy.proxy());
}

TEST_CASE("a thousand clients are served at once, and half of them may die",
          "[manager][server][many]") {
    // Each has a descriptor here, and two in the server.
    constexpr std::size_t kMany = 1000;
    rlimit before = {};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    const rlimit files = {std::min<rlim_t>(before.rlim_max, 2 * kMany + 200), before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &files) == 0);
    const auto many = std::min(kMany, static_cast<std::size_t>(files.rlim_cur - 200) / 2);
    if (many < kMany) WARN("the limit of descriptors allows " << many << " clients only");
    mp::Manager manager;
    auto event = manager.event();
    const auto server = server_of(event);
    ObjectFrame call = is_set_call(event.number());
    std::vector<mp::Connection> clients;
    for (std::size_t i = 0; i < many; ++i)
        clients.push_back(mp::Client(server.address, {.authkey = server.authkey}));
    for (std::uint64_t round = 1; round <= 2; ++round) {
        call.head.request = round;
        for (auto& client : clients) client.send(call);
        std::size_t answered = 0;
        for (auto& client : clients) {
            const auto answer = client.recv<ObjectFrame>();
            answered += answer.head.kind == FrameKind::value && answer.head.request == round;
        }
        CHECK(answered == clients.size());
        clients.resize(clients.size() / 2);
    }
    event.set();
    CHECK(event.is_set());
    CHECK(::setrlimit(RLIMIT_NOFILE, &before) == 0);
}

TEST_CASE("a client that sends frames of any kind and content hurts nobody else",
          "[manager][hostile]") {
    const char* wanted = std::getenv("FRAMES_SEED");
    const std::uint64_t seed = wanted ? std::stoull(wanted) : std::random_device{}();
    INFO("FRAMES_SEED=" << seed);
    std::mt19937_64 random(seed);
    mp::Manager manager;
    auto event = manager.event();
    auto list = manager.list<int>();
    const auto server = server_of(event);
    using Add = mp::detail::MethodBody<mp::detail::EventObject, &mp::detail::EventObject::is_set>;
    const FrameKind kinds[] = {FrameKind::call, FrameKind::pin,    FrameKind::claim,
                               FrameKind::get,  FrameKind::invoke, FrameKind::release,
                               FrameKind::beat, FrameKind::cancel, FrameKind::hello};
    for (int client = 0; client < 40; ++client) {
        auto connection = mp::Client(server.address, {.authkey = server.authkey});
        try {
            for (int i = 0; i < 100; ++i) {
                ObjectFrame frame;
                // One in a hundred is what no client sends: that ends the connection.
                frame.head.kind = random() % 100 == 0 ? static_cast<FrameKind>(random() % 256)
                                                      : kinds[random() % std::size(kinds)];
                frame.head.request = random() % 8;
                frame.head.caller = random() % 3;
                frame.head.object = random() % 4;
                if (random() % 2 == 0) frame.head.task = mp::detail::task_id<Add>();
                if (random() % 4 == 0) frame.head.timeout = random() % 1'000'000;
                std::vector<std::byte> body(random() % 24);
                for (std::byte& byte : body) byte = static_cast<std::byte>(random() % 3);
                frame.body = body;
                connection.send(frame);
            }
        } catch (const std::system_error&) {  // it was cut off
        }
        list.push_back(client);
        CHECK_FALSE(event.is_set());
    }
    CHECK(list.size() == 40);
    CHECK(manager.is_alive());
}

}  // namespace server_fault_test
