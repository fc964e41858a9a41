#include <sidestep/connection.hpp>

#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "connection_support.hpp"

namespace listener_test {

using namespace sidestep;
using namespace std::chrono_literals;
using test::RawPeer;

namespace {

std::vector<Address> every_kind(const test::TemporaryFolder& folder) {
    return {TcpAddress{}, TcpAddress{"::1", 0}, UnixAddress{folder.file("socket")},
            UnixAddress::abstract("sidestep-test-" + std::to_string(getpid())), UnixAddress{}};
}

std::errc listen_error(const Address& address) {
    try {
        Listener listener({.address = address});
    } catch (const std::system_error& error) {
        return static_cast<std::errc>(error.code().value());
    }
    return {};
}

}  // namespace

TEST_CASE("listener and client meet on every kind of address, with a key and without",
          "[ipc][listener]") {
    test::TemporaryFolder folder;
    for (const Address& address : every_kind(folder))
        for (std::optional<std::string> key :
             {std::optional<std::string>(), std::optional<std::string>("secret")}) {
            CAPTURE(to_string(address));
            Listener listener({.address = address, .authkey = key});
            CHECK_FALSE(listener.last_accepted());
            std::thread client([&] {
                Connection connection = Client(listener.address(), {.authkey = key});
                connection.send(connection.recv<int>() + 1);
            });
            Connection connection = listener.accept();
            connection.send(41);
            CHECK(connection.recv<int>() == 42);
            client.join();
            CHECK(listener.last_accepted());
        }
}

TEST_CASE("a listener on \"\" is there over IPv4, one on \"::\" over both", "[ipc][listener]") {
    auto reached = [](const Listener& listener, const char* host) {
        Client({TcpAddress{host, std::get<TcpAddress>(listener.address()).port}});
    };
    Listener over_v4({.address = TcpAddress{"", 0}}), over_both({.address = TcpAddress{"::", 0}});
    CHECK_NOTHROW(reached(over_v4, "127.0.0.1"));
    CHECK_NOTHROW(reached(over_both, "127.0.0.1"));
    CHECK_NOTHROW(reached(over_both, "::1"));
}

TEST_CASE("an address that is taken, free again, impossible or nobody's", "[ipc][listener]") {
    test::TemporaryFolder folder;
    for (const Address& address : every_kind(folder)) {
        CAPTURE(to_string(address));
        std::optional<Listener> listener;
        listener.emplace(ListenerOptions{.address = address});
        Address real = listener->address();
        CHECK(listen_error(real) == std::errc::address_in_use);
        listener.reset();
        CHECK_THROWS_AS(Client(real, {.timeout = 5s}), std::system_error);
        CHECK(listen_error(real) == std::errc());
    }
    CHECK_FALSE(std::filesystem::exists(folder.file("socket")));
    CHECK_THROWS_AS(Listener({.address = UnixAddress{std::string(108, 'x')}}),
                    std::invalid_argument);
    CHECK_THROWS_AS(Listener({.address = UnixAddress{std::string("/a\0b", 4)}}),
                    std::invalid_argument);
    Listener longest({.address = UnixAddress::abstract(std::string(107, 'x'))});
    CHECK(longest.address() == Address(UnixAddress::abstract(std::string(107, 'x'))));
    CHECK_THROWS_AS(Listener({.address = TcpAddress{"no such host.invalid", 0}}),
                    std::system_error);
    CHECK_THROWS_AS(Listener({.backlog = 0}), std::invalid_argument);
    CHECK_THROWS_AS(Listener({.handshake_timeout = 0s}), std::invalid_argument);
    CHECK_THROWS_AS(Client(UnixAddress{}), std::invalid_argument);
}

TEST_CASE("the socket's file goes with its listener, and nobody else's file does",
          "[ipc][listener]") {
    test::TemporaryFolder folder;
    std::string path = folder.file("socket");
    {
        Listener listener({.address = UnixAddress{path}});
        test::ForkedChild child([&] {
            listener.close();  // a copy: the file is its creator's
            return 0;
        });
        CHECK(child.join() == 0);
        CHECK(std::filesystem::exists(path));
        std::filesystem::remove(path);
        std::ofstream(path) << "something else by the same name";
    }
    CHECK(std::filesystem::exists(path));
    CHECK(listen_error(UnixAddress{path}) == std::errc::address_in_use);
}

TEST_CASE("a wrong key, no key and garbage are turned away by name, and the next peer is let in",
          "[ipc][listener][auth]") {
    Listener listener({.address = TcpAddress{}, .authkey = "secret"});
    CHECK_FALSE(listener.accept_for(0s));
    std::thread wrong([&] {
        CHECK_THROWS_AS(Client(listener.address(), {.authkey = "wrong"}), AuthenticationError);
    });
    CHECK_THROWS_WITH(listener.accept(), Catch::Contains("127.0.0.1") && Catch::Contains("digest"));
    wrong.join();

    const std::string lies[] = {
        "GET / HTTP/1.1\r\n\r\n", test::frame("#WELCOME#"), test::big_endian(1u << 30, 4),
        test::big_endian(0xffffffff, 4) + test::big_endian(std::uint64_t(1) << 63, 8)};
    for (const std::string& lie : lies) {
        RawPeer peer(listener.address());
        peer.write(lie);
        CHECK_THROWS_AS(listener.accept(), AuthenticationError);
        CHECK(peer.reaches_end());
    }
    RawPeer gone(listener.address());
    gone.close();
    CHECK_THROWS_WITH(listener.accept(), Catch::Contains("closed"));

    std::thread right([&] { Client(listener.address(), {.authkey = "secret"}).send(1); });
    CHECK(listener.accept().recv<int>() == 1);
    right.join();
}

TEST_CASE("peers that say nothing, or trickle, keep nobody waiting and are given up in time",
          "[ipc][listener][auth]") {
    Listener listener({.authkey = "secret", .handshake_timeout = 3s});
    std::vector<std::unique_ptr<RawPeer>> silent;
    for (int i = 0; i < 5; ++i) silent.push_back(std::make_unique<RawPeer>(listener.address()));
    std::atomic<bool> stop = false;
    std::thread trickling([&] {
        RawPeer peer(listener.address());
        try {
            std::string message = std::string("\0\0\0\xff", 4) + std::string(255, 'x');
            for (std::size_t i = 0; !stop && i < message.size(); ++i) {
                peer.write({&message[i], 1});
                test::eventually([&] { return stop.load(); }, 40ms);
            }
        } catch (const std::runtime_error&) {
        }
    });
    std::thread honest([&] { Client(listener.address(), {.authkey = "secret"}).send(1); });
    Connection connection;
    int failures = 0;
    while (connection.closed() || failures < 6) {
        try {
            connection = listener.accept();
        } catch (const AuthenticationError&) {
            ++failures;
        }
    }
    stop = true;
    honest.join();
    trickling.join();
    CHECK(connection.recv<int>() == 1);
    for (auto& peer : silent) CHECK(peer->reaches_end());
}

TEST_CASE("handshakes beyond the limit push out the oldest, and cost no memory",
          "[ipc][listener][auth]") {
    Listener listener({.authkey = "secret", .max_handshakes = 8});
    test::reset_peak_memory();
    long before = test::peak_memory_kb();
    std::vector<std::unique_ptr<RawPeer>> silent;
    int failures = 0;
    bool anybody_in = false;
    for (int i = 0; i < 50; ++i) {
        silent.push_back(std::make_unique<RawPeer>(listener.address()));
        for (bool again = true; again;) {
            again = false;
            try {
                anybody_in = anybody_in || listener.accept_for(0s);
            } catch (const AuthenticationError&) {
                ++failures;
                again = true;
            }
        }
    }
    CHECK(failures == 42);
    CHECK_FALSE(anybody_in);
    std::thread honest([&] { Client(listener.address(), {.authkey = "secret"}).send(1); });
    Connection connection;
    while (connection.closed()) {
        try {
            connection = listener.accept();
        } catch (const AuthenticationError&) {
        }
    }
    honest.join();
    CHECK(connection.recv<int>() == 1);
    CHECK(test::peak_memory_kb() - before < 4 << 10);
}

TEST_CASE("a client gives up on a listener that does not answer, or answers garbage",
          "[ipc][listener][auth]") {
    Listener deaf;  // its backlog takes the client, nobody speaks to it
    CHECK_THROWS_WITH(Client(deaf.address(), {.authkey = "secret", .timeout = 100ms}),
                      Catch::Contains("in time"));
    Listener full({.backlog = 1});
    std::vector<Connection> waiting;
    try {
        for (int i = 0; i < 10; ++i) waiting.push_back(Client(full.address(), {.timeout = 100ms}));
        FAIL("the backlog of one took ten");
    } catch (const std::system_error& error) {
        CHECK(error.code() == std::errc::timed_out);
    }
    Listener liar;
    std::thread lying([&] {
        RawPeer peer(liar.accept().release());
        peer.write("HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    CHECK_THROWS_AS(Client(liar.address(), {.authkey = "secret"}), AuthenticationError);
    lying.join();
    CHECK_THROWS_AS(Client(deaf.address(), {.timeout = 0ms}), std::invalid_argument);
}

TEST_CASE("closing a listener ends an accept that waits in another thread", "[ipc][listener]") {
    Listener listener;
    std::thread waiting([&] { CHECK_THROWS_AS(listener.accept(), std::system_error); });
    CHECK_FALSE(listener.closed());
    listener.close();
    listener.close();
    waiting.join();
    CHECK(listener.closed());
    CHECK_THROWS_AS(listener.accept_for(0s), std::system_error);
    CHECK_THROWS_AS(listener.fd(), std::system_error);
}

TEST_CASE("several threads may accept, and wait() tells when there is something to do",
          "[ipc][listener][wait]") {
    Listener listener({.authkey = "secret"});
    CHECK(wait({listener}, 0s).empty());
    constexpr int kClients = 12;
    std::atomic<int> sum = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i)
        threads.emplace_back([&] {
            for (int k = 0; k < kClients / 3; ++k) sum += listener.accept().recv<int>();
        });
    for (int i = 0; i < kClients; ++i) Client(listener.address(), {.authkey = "secret"}).send(i);
    for (std::thread& thread : threads) thread.join();
    CHECK(sum == kClients * (kClients - 1) / 2);
    RawPeer peer(listener.address());
    CHECK(wait({listener}, test::kPatience).size() == 1);
}

TEST_CASE("descriptors of a peer that is not authenticated never enter this process",
          "[ipc][listener][auth]") {
    Listener listener({.authkey = "secret"});
    RawPeer peer(listener.address());
    Connection sender(dup(peer.fd()));
    for (int i = 0; i < 4; ++i) send_handle(sender, 0);  // four bytes: a frame's length, too long
    CHECK_THROWS_AS(listener.accept(), AuthenticationError);
}

TEST_CASE("a client killed in the middle of its handshake has failed it", "[ipc][listener][auth]") {
    Listener listener({.authkey = "secret"});
    auto [ready, tell] = Pipe();
    test::ForkedChild child([&listener, &end = tell] {
        RawPeer peer(listener.address());
        peer.read_frame();
        end.send(1);
        pause();
        return 0;
    });
    CHECK_FALSE(listener.accept_for(0s));
    while (!ready.poll(1ms)) CHECK_FALSE(listener.accept_for(1ms));
    child.kill(SIGKILL);
    CHECK_THROWS_AS(listener.accept(), AuthenticationError);
    CHECK(child.join() == -SIGKILL);
}

TEST_CASE("an abstract name without a key is for processes of the same user", "[ipc][listener]") {
    if (geteuid() != 0) {
        WARN("only root can be another user: nothing was tested");
        return;
    }
    Listener listener({.address = UnixAddress{}});
    test::ForkedChild stranger([&] {
        if (setuid(65534) != 0) return 2;
        Connection connection = Client(listener.address());
        try {
            connection.recv_bytes();
            return 3;
        } catch (const EndOfStream&) {
            return 0;
        }
    });
    while (wait({stranger.sentinel()}, 0s).empty()) CHECK_FALSE(listener.accept_for(10ms));
    CHECK(stranger.join() == 0);
}

namespace {

constexpr uid_t kStranger = 65534;

// Runs `body` beside another user's listener at `address`, a relative one from `folder`: that user
// cannot enter the folders above.
int beside_strangers_listener(const std::string& folder, const Address& address,
                              const std::function<int()>& body) {
    auto [ready, tell] = Pipe();
    auto [stop, end] = Pipe();
    test::ForkedChild stranger([&, &said = tell, &stopped = stop] {
        if (::chdir(folder.c_str()) != 0 || ::setuid(kStranger) != 0) return 2;
        Listener listener({.address = address});
        said.send(1);
        return stopped.recv<int>();
    });
    ready.recv<int>();
    int result = test::ForkedChild(body).join();
    end.send(0);
    return stranger.join() == 0 ? result : -1;
}

int talk_without_key(const Address& address, bool any_user) {
    try {
        Client(address, {.any_user = any_user});
        return 10;
    } catch (const AuthenticationError& error) {
        bool is_told = std::string(error.what()).find("belongs to user 65534") != std::string::npos;
        return is_told ? 20 : 30;
    }
}

}  // namespace

TEST_CASE("without a key a client does not talk to another user's listener on a Unix socket",
          "[ipc][listener]") {
    if (geteuid() != 0) {
        WARN("only root can be another user: nothing was tested");
        return;
    }
    test::TemporaryFolder folder;
    std::string theirs = folder.file("theirs");
    REQUIRE(::mkdir(theirs.c_str(), 0700) == 0);
    REQUIRE(::chown(theirs.c_str(), kStranger, kStranger) == 0);
    Address abstract = UnixAddress::abstract("sidestep-squatted-" + std::to_string(getpid()));
    const std::pair<Address, Address> places[] = {
        // as they say it, and as we do
        {abstract, abstract},
        {UnixAddress{"socket"}, UnixAddress{theirs + "/socket"}}};
    for (const auto& [there, here] : places) {
        CAPTURE(to_string(here));
        auto refused = [&at = here] { return talk_without_key(at, false); };
        auto wanted = [&at = here] { return talk_without_key(at, true); };
        CHECK(beside_strangers_listener(theirs, there, refused) == 20);
        CHECK(beside_strangers_listener(theirs, there, wanted) == 10);
    }
    // Root is whom everybody trusts.
    Listener own({.address = UnixAddress{}});
    auto as_stranger = [&] {
        return setuid(kStranger) == 0 ? talk_without_key(own.address(), false) : 2;
    };
    CHECK(test::ForkedChild(as_stranger).join() == 10);
}

TEST_CASE("a constructor that fails behind bind() leaves no socket file", "[ipc][listener]") {
    test::TemporaryFolder folder;
    std::string path = folder.file("socket");
    // The socket gets the last descriptor; the event for close() finds none.
    test::ForkedChild child([&] {
        rlimit limit = {};
        getrlimit(RLIMIT_NOFILE, &limit);
        int lowest = dup(0);
        close(lowest);
        limit.rlim_cur = static_cast<rlim_t>(lowest) + 1;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return 2;
        try {
            Listener listener({.address = UnixAddress{path}});
            return 3;
        } catch (const std::system_error& error) {
            if (error.code() != std::errc::too_many_files_open) return 4;
        }
        if (std::filesystem::exists(path)) return 5;
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        Listener listener({.address = UnixAddress{path}});
        return std::filesystem::exists(path) ? 0 : 6;
    });
    CHECK(child.join() == 0);
    CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("peers that come to nothing do not keep accept_for beyond its time", "[ipc][listener]") {
    if (geteuid() != 0) {
        WARN("only root can be another user: nothing was tested");
        return;
    }
    // Ten of another user's wait; without a key at an abstract name none of them is let in.
    Listener listener({.address = UnixAddress{}, .max_handshakes = 4});
    auto [ready, tell] = Pipe();
    auto [stop, end] = Pipe();
    test::ForkedChild strangers([&, &said = tell, &stopped = stop] {
        if (seteuid(kStranger) != 0) return 2;
        std::vector<Connection> waiting;
        for (int i = 0; i < 10; ++i) waiting.push_back(Client(listener.address()));
        said.send(1);
        return stopped.recv<int>();
    });
    ready.recv<int>();
    CHECK_FALSE(listener.accept_for(0s));
    CHECK_FALSE(wait({listener}, 0s).empty());  // it came back in the middle of them
    CHECK_FALSE(listener.accept_for(0s));
    CHECK_FALSE(listener.accept_for(0s));
    CHECK(wait({listener}, 0s).empty());
    end.send(0);
    CHECK(strangers.join() == 0);
}

}  // namespace listener_test
