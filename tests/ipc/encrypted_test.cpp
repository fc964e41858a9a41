// Listener and Client with `encrypted`: TLS 1.3 with a key made of the authkey, and what others
// try.
#include <catch2/catch.hpp>

#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <sidestep/connection.hpp>

#include "support.hpp"

namespace encrypted_test {

using namespace sidestep;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;

namespace {

const ListenerOptions kListens{.address = TcpAddress{}, .authkey = "secret", .encrypted = true};
const ClientOptions kKnows{.authkey = "secret", .encrypted = true};

struct Pair {
    Connection server, client;
};
Pair connect(Listener& listener) {
    std::optional<Connection> client;
    std::thread connects([&] { client = Client(listener.address(), kKnows); });
    Connection server = listener.accept();
    connects.join();
    return {std::move(server), std::move(*client)};
}
// What accept() says of the next peer.
std::string refusal(Listener& listener) {
    try {
        (void)listener.accept();
    } catch (const AuthenticationError& error) {
        return error.what();
    }
    return {};
}
int code_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const std::system_error& error) {
        return error.code().value();
    } catch (const EndOfStream&) {
        return -1;
    }
    return 0;
}

// Somebody between a client and its listener, who carries all bytes, and changes some.
class Between {
  public:
    // change(bytes): of what the client sends.
    Between(const Address& listener, std::function<void(std::string&)> change)
        : door_({.address = TcpAddress{}}), carries_([this, listener, change = std::move(change)] {
              Connection client = door_.accept();
              Connection server = Client(listener);
              pollfd both[] = {{client.fd(), POLLIN, 0}, {server.fd(), POLLIN, 0}};
              for (;;) {
                  (void)::poll(both, 2, -1);
                  for (int i = 0; i < 2; ++i) {
                      if (both[i].revents == 0) continue;
                      std::string bytes(65536, '\0');
                      const ssize_t size = ::recv(both[i].fd, bytes.data(), bytes.size(), 0);
                      if (size <= 0) return;
                      bytes.resize(static_cast<std::size_t>(size));
                      if (i == 0 && armed) change(bytes);
                      (void)!::send(both[1 - i].fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
                      if (i == 0 && armed) seen += bytes;
                  }
              }
          }) {}
    ~Between() { carries_.join(); }
    Between(const Between&) = delete;
    Between& operator=(const Between&) = delete;
    const Address& address() const { return door_.address(); }

    std::atomic<bool> armed{false};
    std::string seen;  // by who has joined

  private:
    Listener door_;
    std::thread carries_;
};

}  // namespace

TEST_CASE("an encrypted connection carries messages of all sizes both ways", "[ipc][encrypted]") {
    auto address = GENERATE(Address(TcpAddress{}), Address(UnixAddress{}));
    Listener listener({.address = address, .authkey = "secret", .encrypted = true});
    auto [server, client] = connect(listener);
    for (const std::size_t size : {0U, 1U, 16383U, 16384U, 16385U, 100000U, 3000000U}) {
        const std::string message(size, 'x');
        std::thread sends([&, &c = client] { c.send_bytes(message); });
        CHECK(server.recv_bytes() == message);
        sends.join();
    }
    server.send(std::vector<int>{1, 2, 3});
    CHECK(client.poll(10s));
    CHECK(client.recv<std::vector<int>>() == std::vector<int>{1, 2, 3});
    CHECK_FALSE(client.poll());
    // Two messages in one record: the second is there though the socket is not readable.
    server.send(1);
    server.send(2);
    CHECK(client.recv<int>() == 1);
    CHECK(client.recv<int>() == 2);
    CHECK_FALSE(client.carries_fds());
    CHECK_THROWS(client.send(DupFd::duplicate_of(0)));
    server.close();
    CHECK_THROWS_AS(client.recv<int>(), EndOfStream);
}

TEST_CASE("two threads of one side send and receive at the same time", "[ipc][encrypted]") {
    Listener listener(kListens);
    auto [server, client] = connect(listener);
    constexpr int kMany = 300;
    auto talk = [](Connection& connection) {
        std::thread sends([&] {
            for (int i = 0; i < kMany; ++i) connection.send(std::string(5000, char('a' + i % 26)));
        });
        int wrong = 0;
        for (int i = 0; i < kMany; ++i)
            wrong += connection.recv<std::string>() != std::string(5000, char('a' + i % 26));
        sends.join();
        return wrong;
    };
    int other = -1;
    std::thread there([&, &s = server] { other = talk(s); });
    CHECK(talk(client) == 0);
    there.join();
    CHECK(other == 0);
}

TEST_CASE("a wrong key, none, and no TLS at all are refused by both sides", "[ipc][encrypted]") {
    Listener listener(kListens);
    std::atomic<bool> refused{false};
    SECTION("a wrong key") {
        std::thread client([&] {
            try {
                (void)Client(listener.address(), {.authkey = "wrong", .encrypted = true});
            } catch (const AuthenticationError& error) {
                const std::string text = error.what();
                refused = text.find("wrong") == text.npos && text.find("authkey") != text.npos;
            }
        });
        CHECK_THAT(refusal(listener), Contains("authkey") && !Contains("secret"));
        client.join();
    }
    SECTION("the handshake of Python with the right key") {
        std::thread client([&] {
            try {
                (void)Client(listener.address(), {.authkey = "secret", .timeout = 10s});
            } catch (const AuthenticationError&) {
                refused = true;
            } catch (const std::system_error&) {
                refused = true;
            }
            // It waits for a challenge, and the listener for a hello: who is late gives up.
        });
        Listener impatient({.address = TcpAddress{},
                            .authkey = "secret",
                            .encrypted = true,
                            .handshake_timeout = 50ms});
        Connection silent = Client(impatient.address());
        CHECK_THAT(refusal(impatient), Contains("in time"));
        listener.close();
        client.join();
    }
    SECTION("plain text") {
        Connection client = Client(listener.address());
        client.send_bytes("GET / HTTP/1.1");
        CHECK_THAT(refusal(listener), Contains("TLS"));
        CHECK(code_of([&] { (void)client.recv_bytes(1000); }) != 0);
        refused = true;
    }
    SECTION("a frame with a length of 2^63") {
        Connection client = Client(listener.address());
        const unsigned char huge[] = {0xff, 0xff, 0xff, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0};
        REQUIRE(::send(client.fd(), huge, sizeof huge, MSG_NOSIGNAL) == sizeof huge);
        CHECK_FALSE(refusal(listener).empty());
        refused = true;
    }
    SECTION("a listener that does not know the key") {
        Listener other({.address = TcpAddress{}, .authkey = "other", .encrypted = true});
        std::thread client([&] {
            try {
                (void)Client(other.address(), kKnows);
            } catch (const AuthenticationError&) {
                refused = true;
            }
        });
        CHECK_FALSE(refusal(other).empty());
        client.join();
    }
    CHECK(refused);
    // The others get in.
    if (!listener.closed()) CHECK_NOTHROW(connect(listener));
    CHECK_THROWS_AS(Listener({.address = TcpAddress{}, .encrypted = true}), std::invalid_argument);
    CHECK_THROWS_AS(Client(kListens.address, {.encrypted = true}), std::invalid_argument);
}

TEST_CASE("each byte of a record that somebody changes on the way is noticed", "[ipc][encrypted]") {
    std::size_t size = 1;
    for (std::size_t at = 0; at < size; at += 5) {
        Listener listener(kListens);
        Between between(listener.address(), [&](std::string& bytes) {
            size = bytes.size();
            bytes[at % bytes.size()] = char(bytes[at % bytes.size()] ^ 1);
        });
        std::optional<Connection> client;
        std::thread connects([&] { client = Client(between.address(), kKnows); });
        Connection server = listener.accept();
        connects.join();
        between.armed = true;
        client->send(std::string("pay 100 to Bob"));
        INFO("byte " << at << " of " << size);
        // Of a changed length more may be awaited than comes: the end is noticed then.
        client->close();
        CHECK(code_of([&] { (void)server.recv<std::string>(); }) > 0);
    }
    CHECK(size > 20);
}

TEST_CASE("a record that was captured is not readable, and is refused when it comes again",
          "[ipc][encrypted]") {
    Listener listener(kListens);
    Connection server;
    std::string seen;
    {
        Between between(listener.address(), [](std::string& bytes) { bytes += bytes; });
        std::optional<Connection> client;
        std::thread connects([&] { client = Client(between.address(), kKnows); });
        server = listener.accept();
        connects.join();
        between.armed = true;
        client->send(std::string("pay 100 to Bob"));
        CHECK(server.recv<std::string>() == "pay 100 to Bob");
        CHECK(code_of([&] { (void)server.recv<std::string>(); }) == EBADMSG);
        server.close();
        client->close();
        seen = between.seen;
    }
    CHECK(seen.find("Bob") == seen.npos);
}

TEST_CASE("a stream that is cut off is no end of the stream", "[ipc][encrypted]") {
    Listener listener(kListens);
    auto [server, client] = connect(listener);
    ::shutdown(client.fd(), SHUT_WR);  // as by somebody between: without a goodbye
    CHECK(code_of([&, &s = server] { (void)s.recv_bytes(); }) == ECONNRESET);
}

TEST_CASE("peers that trickle, stop or flood hold up nobody", "[ipc][encrypted]") {
    Listener listener({.address = TcpAddress{},
                       .authkey = "secret",
                       .backlog = 512,
                       .encrypted = true,
                       .max_handshakes = 16});
    // A hundred that have begun a record, and say no more; and one that goes on a byte at a time.
    std::vector<Connection> idle;
    const unsigned char begin[] = {0x16, 0x03, 0x01, 0x40, 0x00};
    for (int i = 0; i < 100; ++i) {
        idle.push_back(Client(listener.address()));
        REQUIRE(::send(idle.back().fd(), begin, sizeof begin, MSG_NOSIGNAL) == sizeof begin);
    }
    std::atomic<bool> done{false};
    std::thread trickles([&] {
        Connection slow = Client(listener.address());
        while (!done && ::send(slow.fd(), begin, 1, MSG_NOSIGNAL) == 1) (void)::poll(nullptr, 0, 1);
    });
    std::optional<Connection> client;
    std::thread connects([&] { client = Client(listener.address(), kKnows); });
    std::optional<Connection> server;
    int turned_away = 0;
    while (!server) {
        try {
            server = listener.accept();
        } catch (const AuthenticationError&) {
            ++turned_away;
        }
    }
    connects.join();
    done = true;
    trickles.join();
    client->send(1);
    CHECK(server->recv<int>() == 1);
    CHECK(turned_away > 50);
}

TEST_CASE("an encrypted connection stays in its process", "[ipc][encrypted][fork]") {
    Listener listener(kListens);
    auto [server, client] = connect(listener);
    auto [here, there] = Pipe();
    CHECK_THROWS_AS(here.send(client), SerializationError);
    CHECK_THROWS_AS(client.release(), std::logic_error);
    const int child = ::fork();
    if (child == 0) {
        int right = 0;
        right += code_of([&, &c = client] { c.send(1); }) == EBADF;
        right += code_of([&, &c = client] { (void)c.recv<int>(); }) == EBADF;
        client.close();
        ::_exit(right);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(WEXITSTATUS(status) == 2);
    client.send(7);
    CHECK(server.recv<int>() == 7);
    Connection second = server.duplicate();
    second.send(8);
    CHECK(client.recv<int>() == 8);
}

TEST_CASE("silence has a limit, before a message and in the middle of one", "[ipc][encrypted]") {
    const bool encrypted = GENERATE(true, false);
    Listener listener({.address = TcpAddress{}, .authkey = "secret", .encrypted = encrypted});
    std::optional<Connection> client;
    std::thread connects([&] {
        client = Client(listener.address(), {.authkey = "secret", .encrypted = encrypted});
    });
    Connection server = listener.accept();
    connects.join();
    server.limit_silence(100ms);
    client->send(1);
    CHECK(server.recv<int>() == 1);
    CHECK(code_of([&] { (void)server.recv<int>(); }) == ETIMEDOUT);
    client->send(2);
    CHECK(server.recv<int>() == 2);
    // One that reads nothing.
    const std::string large(64 << 20, 'x');
    CHECK(code_of([&] { server.send_bytes(large); }) == ETIMEDOUT);
    CHECK(code_of([&] { server.send_bytes("more"); }) == EBADF);
}

}  // namespace encrypted_test
