#include <sidestep/listener.hpp>

#include <fmt/format.h>
#include <poll.h>

#include <cerrno>
#include <system_error>

#include "connection/credentials.hpp"
#include "connection/handshake.hpp"
#include "connection/socket_address.hpp"
#include "connection/tls.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0 {
namespace {

Fd connect_to(const Address& address, const sys::Deadline& deadline) {
    int error = 0;
    for (const sys::SocketAddress& candidate : resolve(address, AddressUse::connect)) {
        Fd socket = sys::make_socket(candidate.storage.ss_family);
        error = sys::connect(socket.get(), candidate, deadline);
        if (error == 0) return socket;
        if (error == ETIMEDOUT) break;
    }
    throw_errno(error, fmt::format("cannot connect to {}", to_string(address)));
}

// Runs the client's side of the handshake on a socket that is otherwise blocking.
void authenticate(int socket, Handshake& handshake, const sys::Deadline& deadline) {
    while (!handshake.over()) {
        if (!sys::wait_ready(socket, POLLIN, deadline))
            return handshake.fail("did not finish the handshake in time");
        if (!advance(socket, handshake)) return;
    }
}

Connection secure(Fd socket, const Address& address, const std::string& authkey,
                  const sys::Deadline& deadline) {
    using detail::TlsStream;
    const TlsKey key = TlsKey::of(authkey);
    auto tls = std::make_shared<TlsStream>(TlsStream::Side::client, key);
    TlsStream::Progress progress;
    std::string reason;
    while ((progress = tls->advance(socket.get())) == TlsStream::Progress::goes_on) {
        if (sys::wait_ready(socket.get(), POLLIN, deadline)) continue;
        reason = "did not finish the handshake in time";
        break;
    }
    if (progress != TlsStream::Progress::done)
        throw AuthenticationError(fmt::format("the listener at {} {}", to_string(address),
                                              reason.empty() ? tls->reason() : reason));
    Connection connection = detail::secure_connection(socket.get(), std::move(tls));
    (void)socket.release();
    return connection;
}

}  // namespace

Connection Client(const Address& address, const ClientOptions& options) {
    if (options.timeout && options.timeout->count() <= 0)
        throw std::invalid_argument("ClientOptions::timeout must be positive, or none");
    if (options.encrypted && !options.authkey)
        throw std::invalid_argument("ClientOptions::encrypted needs an authkey");
    if (options.encrypted) (void)TlsKey::of(*options.authkey);  // takes its time: not the peer's
    sys::Deadline deadline = detail::deadline_after(options.timeout);
    Fd socket = connect_to(address, deadline);
    if (std::holds_alternative<TcpAddress>(address)) set_tcp_options(socket.get());
    if (options.encrypted) return secure(std::move(socket), address, *options.authkey, deadline);
    if (options.authkey) {
        Credentials credentials =
            make_credentials(*options.authkey, options.digest, options.legacy_md5);
        Handshake handshake(Handshake::Side::client, credentials);
        authenticate(socket.get(), handshake, deadline);
        if (handshake.state() != Handshake::State::authenticated)
            throw AuthenticationError(
                fmt::format("the listener at {} {}", to_string(address), handshake.reason()));
    }
    bool only_kernel_knows = !options.authkey && std::holds_alternative<UnixAddress>(address);
    if (only_kernel_knows && !options.any_user)
        expect_own_user(socket.get(), "the listener at " + to_string(address),
                        "give both sides an authkey, or set any_user to trust whoever is there");
    Connection connection(socket.get());
    (void)socket.release();
    return connection;
}

}  // namespace sidestep
