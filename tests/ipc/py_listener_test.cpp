// The contracts of CPython's tests of Listener and Client, of authentication, and of EINTR.
#include <sidestep/connection.hpp>

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>

#include "connection_support.hpp"

namespace py_listener_test {

using namespace sidestep;
using namespace std::chrono_literals;
using test::ForkedChild;
using test::RawPeer;

namespace {

std::vector<Address> families(const test::TemporaryFolder& folder) {
    return {TcpAddress{}, UnixAddress{folder.file("socket")}};
}

std::atomic<int> signals = 0;

// SIGUSR1 is counted, and interrupts system calls (no SA_RESTART).
void count_signals() {
    struct sigaction action = {};
    action.sa_handler = [](int) { ++signals; };
    sigaction(SIGUSR1, &action, nullptr);
}

// True when the process sleeps in a system call: now a signal would interrupt it.
bool sleeps(int pid) {
    std::string path = "/proc/" + std::to_string(pid) + "/stat";
    FILE* file = std::fopen(path.c_str(), "re");
    char state = 0;
    if (file == nullptr) return false;
    int read = std::fscanf(file, "%*d %*s %c", &state);
    std::fclose(file);
    return read == 1 && state == 'S';
}

void interrupt(const ForkedChild& child) {
    CHECK(test::eventually([&] { return sleeps(child.pid()); }));
    child.kill(SIGUSR1);
}

}  // namespace

TEST_CASE("an address that a listener has cannot be bound a second time",
          "[ipc][listener][py:_TestListener.test_multiple_bind]") {
    test::TemporaryFolder folder;
    for (const Address& family : families(folder)) {
        Listener listener({.address = family});
        CHECK_THROWS_AS(Listener({.address = listener.address()}), std::system_error);
    }
}

TEST_CASE("a listener and its connections serve until their scope ends",
          "[ipc][listener][py:_TestListener.test_context]") {
    Listener listener;
    {
        Connection client = Client(listener.address());
        Connection server = listener.accept();
        client.send(1729);
        CHECK(server.recv<int>() == 1729);
    }
    listener.close();
    CHECK_THROWS_AS(listener.accept(), std::system_error);
}

TEST_CASE("an empty key is a key: it authenticates who has it, and nobody else",
          "[ipc][listener][auth][py:_TestListener.test_empty_authkey]") {
    Listener listener({.authkey = ""});
    std::thread client([&] { Client(listener.address(), {.authkey = ""}).send(1729); });
    CHECK(listener.accept().recv<int>() == 1729);
    client.join();
    std::thread other([&] {
        CHECK_THROWS_AS(Client(listener.address(), {.authkey = "x"}), AuthenticationError);
    });
    CHECK_THROWS_AS(listener.accept(), AuthenticationError);
    other.join();
    listener.close();
    CHECK_THROWS_AS(listener.accept(), std::system_error);
}

TEST_CASE("abstract names are addresses like others",
          "[ipc][listener][py:_TestListener.test_abstract_socket]") {
    std::string name = "sidestep-something-" + std::to_string(getpid());
    Listener listener({.address = UnixAddress::abstract(name)});
    CHECK(listener.address() == Address(UnixAddress::abstract(name)));
    {
        Connection client = Client(listener.address());
        Connection server = listener.accept();
        client.send(1729);
        CHECK(server.recv<int>() == 1729);
    }
    listener.close();
    CHECK_THROWS_AS(listener.accept(), std::system_error);
}

TEST_CASE("a client in another process connects and is heard, on each family",
          "[ipc][listener][py:_TestListenerClient.test_listener_client]") {
    test::TemporaryFolder folder;
    for (const Address& family : families(folder)) {
        Listener listener({.address = family});
        ForkedChild child([&] {
            Client(listener.address()).send(std::string("hello"));
            return 0;
        });
        CHECK(listener.accept().recv<std::string>() == "hello");
        CHECK(child.join() == 0);
    }
}

TEST_CASE("a client that has sent and closed before the accept is still heard",
          "[ipc][listener][py:_TestListenerClient.test_issue14725]") {
    Listener listener;
    ForkedChild child([&] {
        Client(listener.address()).send(std::string("hello"));
        return 0;
    });
    CHECK(child.join() == 0);
    CHECK(listener.accept().recv<std::string>() == "hello");
}

TEST_CASE("a message that was sent is seen by poll at the client, on each family",
          "[ipc][listener][py:_TestListenerClient.test_issue16955]") {
    test::TemporaryFolder folder;
    for (const Address& family : families(folder)) {
        Listener listener({.address = family});
        Connection client = Client(listener.address());
        Connection server = listener.accept();
        server.send_bytes("hello");
        CHECK(client.poll(test::kPatience));
    }
}

TEST_CASE("whoever is challenged and answers nonsense is not let in",
          "[ipc][auth][py:OtherTest.test_deliver_challenge_auth_failure]") {
    Listener listener({.authkey = "abc"});
    RawPeer peer(listener.address());
    peer.write_frame("something bogus");
    CHECK_THROWS_AS(listener.accept(), AuthenticationError);
    CHECK(peer.read_frame().starts_with("#CHALLENGE#"));
    CHECK(peer.read_frame() == "#FAILURE#");
}

TEST_CASE("whoever challenges and then says nonsense is not trusted",
          "[ipc][auth][py:OtherTest.test_answer_challenge_auth_failure]") {
    Listener impostor;
    for (std::string challenge : {"#CHALLENGE#", "#CHALLENGE#{sha256}0123456789012345678901234"}) {
        std::thread lying([&] {
            RawPeer peer(impostor.accept().release());
            peer.write(test::frame(challenge) + test::frame("something bogus"));
            peer.reaches_end();
        });
        CHECK_THROWS_AS(Client(impostor.address(), {.authkey = "abc"}), AuthenticationError);
        lying.join();
    }
}

TEST_CASE("the name of a Windows pipe is no address here",
          "[ipc][listener][py:TestInvalidFamily.test_invalid_family]") {
    CHECK_THROWS_AS(Listener({.address = UnixAddress{R"(\\.\test)"}}), std::invalid_argument);
    CHECK_THROWS_AS(Client(UnixAddress{R"(\\.\test)"}), std::invalid_argument);
}

TEST_CASE("waiting for a process goes on after a signal",
          "[ipc][wait][py:_TestPollEintr.test_poll_eintr]") {
    ForkedChild waiting([] {
        count_signals();
        auto [quiet, other] = Pipe();
        ForkedChild last([&end = other] { return end.recv<int>(); });
        ForkedChild killer([self = getpid(), &end = quiet] {
            test::eventually([&] { return sleeps(self); });
            ::kill(self, SIGUSR1);
            test::eventually([&] { return sleeps(self); });
            end.send(0);
            return 0;
        });
        if (wait({last.sentinel()}, test::kPatience).size() != 1) return 2;
        if (killer.join() != 0 || last.join() != 0) return 3;
        return signals == 1 ? 0 : 4;
    });
    CHECK(waiting.join() == 0);
}

TEST_CASE("signals interrupt neither a receive nor a send that waits",
          "[ipc][connection][py:TestIgnoreEINTR.test_ignore]") {
    constexpr std::size_t kBig = 4 << 20;
    auto [conn, child_conn] = Pipe();
    ForkedChild child([&parent_end = conn, &end = child_conn] {
        parent_end.close();
        count_signals();
        end.send(std::string("ready"));
        end.send(end.recv<int>());
        end.send_bytes(std::string(kBig, 'x'));
        return signals == 2 ? 0 : 2;
    });
    child_conn.close();
    CHECK(conn.recv<std::string>() == "ready");
    interrupt(child);
    conn.send(1234);
    CHECK(conn.recv<int>() == 1234);
    interrupt(child);
    CHECK(conn.recv_bytes() == std::string(kBig, 'x'));
    CHECK(child.join() == 0);
}

TEST_CASE("signals do not interrupt an accept that waits",
          "[ipc][listener][py:TestIgnoreEINTR.test_ignore_listener]") {
    auto [conn, child_conn] = Pipe();
    ForkedChild child([&parent_end = conn, &end = child_conn] {
        parent_end.close();
        count_signals();
        Listener listener;
        end.send(listener.address());
        Connection accepted = listener.accept();
        accepted.send(std::string("welcome"));
        return signals == 1 ? 0 : 2;
    });
    auto address = conn.recv<Address>();
    interrupt(child);
    CHECK(Client(address).recv<std::string>() == "welcome");
    CHECK(child.join() == 0);
}

}  // namespace py_listener_test
