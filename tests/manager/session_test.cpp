// Sessions at a ManagerServer: who is lost, how that is found out, and what it costs the others.
#include <catch2/catch.hpp>

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/connection.hpp>
#include <sidestep/event.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/process.hpp>

#include "manager_support.hpp"
#include "object_frame.hpp"
#include "process_support.hpp"
#include "remote_support.hpp"
#include "service_thread.hpp"
#include "support.hpp"

namespace session_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using test::Echo;
using namespace std::chrono_literals;
using mp::detail::FrameKind;
using mp::detail::ObjectFrame;

namespace {

void expose_all(mp::ManagerServer& server) {
    server.expose<&Echo::echo, &Echo::count>("echo", std::make_shared<Echo>());
    server.expose<mp::Lock>("lock");
    server.expose<mp::Event>("event");
}

constexpr auto kExposeAll = [](mp::ManagerServer& server) { expose_all(server); };

// A client process: takes the lock, says so, then waits for what never comes.
void hold_lock(mp::Address address, std::chrono::milliseconds lost_after, mp::Event holds) {
    mp::Manager manager =
        mp::Manager::connect(address, {.authkey = "secret", .lost_after = lost_after});
    auto lock = manager.get<mp::Lock>("lock");
    lock.lock();
    holds.set();
    try {
        manager.get<mp::Event>("event").wait();
    } catch (const mp::Disconnected&) {
    }
    try {  // it came back, and is another one to the server: the lock is not its own
        lock.unlock();
    } catch (const mp::Disconnected&) {
        mp::Manager again = mp::Manager::connect(address, {.authkey = "secret"});
        try {
            again.get<mp::Lock>("lock").unlock();
        } catch (const std::logic_error&) {
            mp::exit_process(7);
        }
    }
    mp::exit_process(8);
}

mp::Address any_address() {
    return GENERATE(mp::Address(mp::UnixAddress{}), mp::Address(mp::TcpAddress{}));
}

}  // namespace

TEST_CASE("who holds a lock from where the server cannot see it is not named by a number",
          "[manager][session][lock]") {
    mp::Event holds;
    test::RemoteServer server(kExposeAll);  // by TCP, which tells no process
    mp::Process client(&hold_lock, server.address(), 30000ms, holds);
    client.start();
    holds.wait();
    mp::Manager manager = server.connect();
    auto lock = manager.get<mp::Lock>("lock");
    CHECK(lock.holder() == 0);
    CHECK_THROWS_WITH(lock.unlock(),
                      "unlock: the caller does not hold the lock, a process that the server "
                      "cannot see does");
    client.kill();
    client.join();
}

TEST_CASE("a client that is killed frees its locks and references", "[manager][session][death]") {
    FOR_EACH_START_METHOD();
    mp::Event holds;
    test::RemoteServer server(kExposeAll);
    mp::Process client({.start_method = method}, &hold_lock, server.address(), 30000ms, holds);
    client.start();
    holds.wait();
    mp::Manager manager = server.connect();
    auto lock = manager.get<mp::Lock>("lock");
    CHECK_FALSE(lock.try_lock());
    client.kill();
    lock.lock();
    CHECK(lock.owner_died());
    client.join();
}

TEST_CASE("a server that is killed ends all sessions", "[manager][session][death]") {
    test::RemoteServer server(kExposeAll, any_address());
    mp::Manager manager = server.connect();
    auto event = manager.get<mp::Event>("event");
    auto echo = manager.get<Echo>("echo");
    CHECK(echo.call<&Echo::echo>("one") == "one");
    auto waits = event.submit<&mp::detail::EventObject::wait>(mp::Timeout::forever().time());
    server.process().kill();
    try {
        (void)waits.get();
        FAIL("it was answered");
    } catch (const mp::Disconnected& lost) {
        CHECK(lost.began());
        CHECK(lost.pid() == server.pid());
        CHECK_THAT(lost.what(), Contains(mp::to_string(server.address())) &&
                                    Contains("EventObject::wait") && Contains("connect()"));
    }
    CHECK_FALSE(manager.is_alive());
    CHECK_THROWS_AS(echo.call<&Echo::echo>("two"), mp::Disconnected);
    CHECK_THROWS_AS(manager.get<Echo>("echo"), mp::ActorLost);
}

TEST_CASE("a server that stands still is lost after lost_after, and not before it answers",
          "[manager][session][beat]") {
    test::RemoteServer server(kExposeAll, any_address());
    mp::Manager manager = server.connect(200ms);
    auto echo = manager.get<Echo>("echo");
    auto event = manager.get<mp::Event>("event");
    // Longer than lost_after: the server is silent, but it answers the beats.
    CHECK_FALSE(event.wait_for(700ms));
    CHECK(echo.call<&Echo::echo>("alive") == "alive");
    {
        test::Stopped stopped(server.pid());
        try {
            (void)echo.call<&Echo::echo>("stopped");
            FAIL("it was answered");
        } catch (const mp::Disconnected& lost) {
            CHECK_THAT(lost.what(), Contains("200 ms"));
            CHECK(lost.began());
        }
    }
    // To connect again is one call.
    mp::Manager again = server.connect();
    CHECK(again.get<Echo>("echo").call<&Echo::echo>("back") == "back");
    CHECK_THROWS_AS(echo.call<&Echo::echo>("old"), mp::Disconnected);
}

TEST_CASE("a session that nobody uses is found dead, too", "[manager][session][beat]") {
    test::RemoteServer server(kExposeAll, any_address());
    mp::Manager manager = server.connect(200ms);
    test::Stopped stopped(server.pid());
    CHECK(test::eventually([&] { return !manager.is_alive(); }));
}

TEST_CASE("a session that only a call holds, which nobody waits for, ends with its answer",
          "[manager][session][beat]") {
    test::RemoteServer server(kExposeAll, any_address());
    const auto before = mp::detail::ServiceThread::count();
    {
        mp::Manager manager = server.connect(200ms);
        auto echo = manager.get<Echo>("echo");
        (void)echo.submit<&Echo::echo>("nobody hears it");
    }
    CHECK(test::eventually([&] { return mp::detail::ServiceThread::count() == before; }));
}

TEST_CASE("a client that stands still loses its lock, and what comes back is another one",
          "[manager][session][beat]") {
    mp::Event holds;
    test::RemoteServer server(kExposeAll, any_address(), 300ms);
    mp::Process client(&hold_lock, server.address(), 30000ms, holds);
    client.start();
    holds.wait();
    mp::Manager manager = server.connect();
    auto lock = manager.get<mp::Lock>("lock");
    // It lives: its beats keep the lock, for longer than the limit.
    CHECK_FALSE(lock.try_lock_for(900ms));
    {
        test::Stopped stopped(client.pid());
        lock.lock();
        CHECK(lock.owner_died());
    }
    client.join();
    CHECK(client.exitcode() == 7);
    lock.unlock();
}

namespace {

// What a client says: hello, get, and one call.
template <class... Values>
std::string frame(mp::detail::FrameHead head, const Values&... values) {
    mp::detail::HeapBuffer body;
    mp::OutputArchive archive(body);
    (archive(values), ...);
    return test::bytes_of(ObjectFrame{head, body.bytes(), {}, {}, {}});
}
std::uint64_t object_number(mp::Connection& connection) {
    auto answer = connection.recv<ObjectFrame>();
    REQUIRE(answer.head.kind == FrameKind::value);
    mp::InputArchive archive(answer.bytes);
    std::uint64_t number = 0;
    archive(number);
    return number;
}
std::string get_echo() {
    return frame({FrameKind::get, 2, 0, 0, {}}, std::string("echo"),
                 std::string(typeid(Echo).name()));
}
std::string call_echo(std::uint64_t object) {
    return frame({FrameKind::invoke, 3, 1, object, {}},
                 std::string(mp::detail::method_name<&Echo::echo>()), std::string("text"));
}
void send_raw(mp::Connection& connection, const std::string& bytes) {
    REQUIRE(::send(connection.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
}

}  // namespace

TEST_CASE("a client that dies at any byte of a call costs nobody anything",
          "[manager][session][death]") {
    test::RemoteServer server(kExposeAll, mp::UnixAddress{});
    mp::Manager manager = server.connect();
    auto echo = manager.get<Echo>("echo");
    auto raw = [&] { return mp::Client(server.address(), {.authkey = "secret"}); };
    std::string call;
    {
        mp::Connection client = raw();
        send_raw(client, get_echo());
        call = call_echo(object_number(client));
    }
    std::size_t cuts = 0;
    for (std::size_t cut = 0; cut < call.size(); ++cut, ++cuts) {
        mp::Connection client = raw();
        send_raw(client, get_echo());
        (void)object_number(client);
        send_raw(client, call.substr(0, cut));
    }
    std::printf("%zu cuts of a call of %zu bytes\n", cuts, call.size());
    CHECK(cuts == call.size());
    // None of them was called; the whole one is.
    CHECK(echo.call<&Echo::count>() == 0);
    mp::Connection whole = raw();
    send_raw(whole, get_echo());
    (void)object_number(whole);
    send_raw(whole, call);
    auto answer = whole.recv<ObjectFrame>();
    CHECK(answer.head.kind == FrameKind::value);
    CHECK(echo.call<&Echo::count>() == 1);
}

TEST_CASE("a server that dies at any byte of an answer is Disconnected, and never a wrong answer",
          "[manager][session][death]") {
    // The test is the server: it says what one says, and breaks off.
    auto serve = [](mp::Connection& client, std::size_t cut) {
        std::size_t answer_size = 0;
        for (;;) {
            auto asked = client.recv<ObjectFrame>();
            const std::uint64_t request = asked.head.request;
            if (asked.head.kind == FrameKind::hello) {
                send_raw(client, frame({FrameKind::value, request, 0, 0, {}},
                                       mp::detail::Welcome{mp::detail::kProtocol, 77, 1, 30s}));
            } else if (asked.head.kind == FrameKind::get) {
                send_raw(client,
                         frame({FrameKind::value, request, 0, 0, {}}, std::uint64_t(5), false));
            } else if (asked.head.kind == FrameKind::invoke) {
                const std::string answer =
                    frame({FrameKind::value, request, 0, 0, {}}, std::string("answer"));
                answer_size = answer.size();
                send_raw(client, answer.substr(0, cut));
                return answer_size;
            }
        }
    };
    std::size_t size = 1, cuts = 0;
    for (std::size_t cut = 0; cut <= size; ++cut) {
        mp::Listener listener({.authkey = "secret"});
        std::atomic<std::size_t> told{0};
        std::thread server([&] {
            mp::Connection client = listener.accept();
            told = serve(client, cut);
        });
        {
            mp::Manager manager = mp::Manager::connect(listener.address(), {.authkey = "secret"});
            auto echo = manager.get<Echo>("echo");
            auto answer = echo.submit<&Echo::echo>("text");
            server.join();
            if (cut < told) {
                CHECK_THROWS_AS(answer.get(), mp::Disconnected);
                ++cuts;
            } else {
                CHECK(answer.get() == "answer");
            }
        }
        size = told;
    }
    std::printf("%zu cuts of an answer of %zu bytes\n", cuts, size);
    CHECK(cuts == size);
}

TEST_CASE("what a client of a ManagerServer may send that is no call is refused, and hurts nobody",
          "[manager][session][hostile]") {
    test::RemoteServer server(kExposeAll, mp::UnixAddress{}, 300ms);
    mp::Manager manager = server.connect();
    auto echo = manager.get<Echo>("echo");
    auto raw = [&] { return mp::Client(server.address(), {.authkey = "secret"}); };
    auto error_of = [](mp::Connection& connection) {
        auto answer = connection.recv<ObjectFrame>();
        CHECK(answer.head.kind == FrameKind::error);
        mp::InputArchive archive(answer.bytes);
        try {
            std::rethrow_exception(mp::detail::load_exception(archive));
        } catch (const std::exception& error) {
            return std::string(error.what());
        }
    };
    const std::string method = mp::detail::method_name<&Echo::echo>();
    {
        mp::Connection client = raw();
        send_raw(client, get_echo());
        const std::uint64_t object = object_number(client);
        // An unknown object, method, argument; code of the program, named by its place.
        send_raw(client, frame({FrameKind::invoke, 3, 1, 98765, {}}, method, std::string("x")));
        CHECK_THAT(error_of(client), Contains("no object 98765"));
        send_raw(client, frame({FrameKind::invoke, 3, 1, object, {}}, std::string("so"), 1));
        CHECK_THAT(error_of(client), Contains("not exposed"));
        send_raw(client, frame({FrameKind::invoke, 3, 1, object, {}}, method, ~std::uint64_t(0)));
        CHECK_FALSE(error_of(client).empty());
        send_raw(client, frame({FrameKind::invoke, 3, 1, object, {}}, method, std::string("x"), 1));
        CHECK_FALSE(error_of(client).empty());
        send_raw(client,
                 frame({FrameKind::call, 3, 1, object,
                        mp::detail::task_id<mp::detail::MethodBody<Echo, &Echo::count>>()}));
        CHECK_THAT(error_of(client), Contains("not exposed"));
        send_raw(client, frame({FrameKind::call, 3, 1, 0, {}}));
        CHECK_THAT(error_of(client), Contains("not exposed"));
        // References that are not its own, and more of them on their way than there may be.
        send_raw(client, frame({FrameKind::release, 0, 0, object, {}}));
        send_raw(client, frame({FrameKind::release, 0, 0, object, {}}));
        send_raw(client, frame({FrameKind::claim, 0, 0, 98765, {}}, std::uint64_t(1)));
        send_raw(client, frame({FrameKind::pin, 4, 0, 98765, {}}, std::uint64_t(1)));
        CHECK_FALSE(error_of(client).empty());
        send_raw(client, call_echo(object));
        CHECK(client.recv<ObjectFrame>().head.kind == FrameKind::value);
    }
    // A length of 2^63, a frame that stops in the middle, one that trickles in vain, a silent one:
    // the server cuts each off by itself.
    std::vector<mp::Connection> bad;
    for (int i = 0; i < 3; ++i) bad.push_back(raw());
    send_raw(bad[0], std::string("\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", 12));
    send_raw(bad[1], call_echo(1).substr(0, 20));
    for (auto& one : bad) CHECK_THROWS(one.recv<ObjectFrame>());
    mp::Connection slow = raw();
    for (char byte : call_echo(1).substr(0, 10)) {
        send_raw(slow, std::string(1, byte));
        CHECK(echo.call<&Echo::echo>("still") == "still");
    }
    CHECK_THROWS(slow.recv<ObjectFrame>());
    CHECK(echo.call<&Echo::echo>("well") == "well");
}

namespace {
struct Blocked {
    explicit Blocked(mp::Event event) : go_on(std::move(event)) {}
    void block() { go_on.wait(); }
    mp::Event go_on;
};
}  // namespace

TEST_CASE("more calls than a client sends cut it off", "[manager][session][hostile]") {
    mp::Event go_on;
    mp::ManagerServer server({.authkey = "secret"});
    server.expose<&Blocked::block>("blocked", std::make_shared<Blocked>(go_on));
    expose_all(server);
    server.start();
    mp::Connection flood = mp::Client(server.address(), {.authkey = "secret"});
    send_raw(flood, frame({FrameKind::get, 2, 0, 0, {}}, std::string("blocked"),
                          std::string(typeid(Blocked).name())));
    const std::string call = frame({FrameKind::invoke, 3, 1, object_number(flood), {}},
                                   std::string(mp::detail::method_name<&Blocked::block>()));
    int sent = 0;
    while (sent < 100000 && ::send(flood.fd(), call.data(), call.size(), MSG_NOSIGNAL) > 0) ++sent;
    CHECK(sent >= 8192);
    CHECK(sent < 100000);
    mp::Manager manager = mp::Manager::connect(server.address(), {.authkey = "secret"});
    CHECK(manager.get<Echo>("echo").call<&Echo::echo>("well") == "well");
    go_on.set();
}

}  // namespace session_test
