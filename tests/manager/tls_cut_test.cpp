// A network that breaks off in the middle of a call, at each byte of what goes over it by TLS: what
// has no end was not said, whichever side said it.
#include <catch2/catch.hpp>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include <sidestep/manager.hpp>

#include "remote_support.hpp"
#include "support.hpp"
#include "sys/fd.hpp"

namespace tls_cut_test {

namespace mp = sidestep;
using test::Echo;
using namespace std::chrono_literals;

namespace {

enum class Way { to_server, to_client };

// Between one client and a server: passes on what they say, and breaks off where it is told to.
class Relay {
  public:
    explicit Relay(const mp::Address& server) : listener_(make_socket()) {
        sockaddr_in own = loopback(0);
        socklen_t size = sizeof own;
        auto* address = reinterpret_cast<sockaddr*>(&own);
        REQUIRE(::bind(listener_.get(), address, size) == 0);
        REQUIRE(::listen(listener_.get(), 1) == 0);
        REQUIRE(::getsockname(listener_.get(), address, &size) == 0);
        address_.port = ntohs(own.sin_port);
        thread_ = std::thread([this, port = std::get<mp::TcpAddress>(server).port] { run(port); });
    }
    ~Relay() {
        const std::uint64_t one = 1;
        (void)!::write(stop_.get(), &one, sizeof one);
        thread_.join();
    }
    Relay(const Relay&) = delete;
    Relay& operator=(const Relay&) = delete;

    mp::Address address() const { return address_; }
    // So much passes that way from now on; before the next byte both connections end.
    void break_off(Way way, std::size_t bytes) {
        std::lock_guard lock(mutex_);
        way_ = way;
        passed_ = 0;
        most_ = bytes;
    }
    // Since then.
    std::size_t passed() {
        std::lock_guard lock(mutex_);
        return passed_;
    }

  private:
    static mp::Fd make_socket() {
        mp::Fd made(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        const int on = 1;
        (void)::setsockopt(made.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        return made;
    }
    static sockaddr_in loopback(std::uint16_t port) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(port);
        return address;
    }

    void run(std::uint16_t port) {
        if (!is_ready(listener_.get())) return;
        mp::Fd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        mp::Fd server = make_socket();
        const sockaddr_in to = loopback(port);
        if (::connect(server.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) return;
        for (;;) {
            pollfd entries[] = {
                {client.get(), POLLIN, 0}, {server.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
            (void)::poll(entries, 3, -1);
            if (entries[2].revents != 0) return;
            if (entries[0].revents != 0 && !pass(Way::to_server, client, server)) return;
            if (entries[1].revents != 0 && !pass(Way::to_client, server, client)) return;
        }
    }
    // False: it is to stop.
    bool is_ready(int fd) const {
        pollfd entries[] = {{fd, POLLIN, 0}, {stop_.get(), POLLIN, 0}};
        (void)::poll(entries, 2, -1);
        return entries[1].revents == 0;
    }
    // False: it breaks off, or one of them has.
    bool pass(Way way, const mp::Fd& from, const mp::Fd& to) {
        char bytes[65536];
        std::lock_guard lock(mutex_);
        const ssize_t came = ::recv(from.get(), bytes, sizeof bytes, 0);
        if (came <= 0) return false;
        const auto size = static_cast<std::size_t>(came);
        const std::size_t most = way == way_ ? std::min(size, most_ - passed_) : size;
        for (std::size_t sent = 0; sent < most;) {
            const ssize_t n = ::send(to.get(), bytes + sent, most - sent, MSG_NOSIGNAL);
            if (n <= 0) return false;
            sent += static_cast<std::size_t>(n);
        }
        if (way == way_) passed_ += most;
        return most == size;
    }

    const mp::Fd listener_;
    const mp::Fd stop_{::eventfd(0, EFD_CLOEXEC)};
    mp::TcpAddress address_;
    std::mutex mutex_;
    // Guarded by mutex_.
    Way way_ = Way::to_server;
    std::size_t passed_ = 0;
    std::size_t most_ = std::numeric_limits<std::size_t>::max();
    std::thread thread_;
};

constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();
#ifdef TEST_SANITIZED
constexpr std::size_t kStride = 8;  // each byte is a handshake
#else
constexpr std::size_t kStride = 1;
#endif

struct Outcome {
    std::optional<std::string> answer;  // nothing: Disconnected
    std::size_t passed = 0;             // of the call's bytes, that way
};
// One call of an Echo over a connection that breaks off there. (Nobody beats: that would be bytes.)
Outcome call_through(const test::RemoteServer& server, Way way, std::size_t bytes) {
    Relay relay(server.address());
    Outcome outcome;
    {
        mp::Manager manager =
            mp::Manager::connect(relay.address(), {.authkey = "secret", .lost_after = 1h});
        auto echo = manager.get<Echo>("echo");
        relay.break_off(way, bytes);
        try {
            outcome.answer = echo.call<&Echo::echo>("the text");
        } catch (const mp::Disconnected&) {
        }
        outcome.passed = relay.passed();
    }
    return outcome;
}

}  // namespace

TEST_CASE("a network that breaks off at any byte of a call by TLS, or of its answer",
          "[manager][session][death][tls]") {
    test::RemoteServer server(
        [](mp::ManagerServer& s) {
            s.expose<&Echo::echo, &Echo::count>("echo", std::make_shared<Echo>());
        },
        mp::TcpAddress{}, 1h);
    auto count = [&] { return server.connect(1h).get<Echo>("echo").call<&Echo::count>(); };
    int called = 0;
    for (Way way : {Way::to_server, Way::to_client}) {
        const Outcome whole = call_through(server, way, kAll);
        CHECK(whole.answer == "the text");
        CHECK(count() == ++called);
        std::size_t cuts = 0;
        for (std::size_t cut = 0; cut < whole.passed; cut += kStride, ++cuts) {
            const Outcome outcome = call_through(server, way, cut);
            INFO("cut at byte " << cut << " of " << whole.passed);
            CHECK_FALSE(outcome.answer);
            CHECK(outcome.passed == cut);
        }
        std::printf("%zu cuts of %s of %zu bytes by TLS\n", cuts,
                    way == Way::to_server ? "a call" : "an answer", whole.passed);
        CHECK(cuts == (whole.passed + kStride - 1) / kStride);
        CHECK(whole.passed > std::string("the text").size());
        // What has no end was not said: nothing was called. What was called is not called again.
        if (way == Way::to_client) called += static_cast<int>(cuts);
        CHECK(count() == called);
        const Outcome exact = call_through(server, way, whole.passed);
        CHECK(exact.answer == "the text");
        CHECK(count() == ++called);
    }
}

}  // namespace tls_cut_test
