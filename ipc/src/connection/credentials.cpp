#include "connection/credentials.hpp"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <system_error>

#include "sys/sys_socket.hpp"

namespace sidestep::inline v0 {
namespace {

void flush(int socket, Handshake& handshake) {
    std::string output = handshake.take_output();
    if (output.empty()) return;
    // A peer that reads has room for so little: one that has not is not waited for.
    auto sent = sys::try_send(socket, std::as_bytes(std::span(output)));
    if (sent.value_or(0) != output.size()) handshake.fail("does not read what it is sent");
}

// What a send or a receive says when the other side, or the way to it, is gone.
bool is_peers_doing(int error) {
    switch (error) {
        case ECONNRESET:
        case ECONNABORTED:
        case EPIPE:
        case ENOTCONN:
        case ETIMEDOUT:
        case EPROTO:
        case EHOSTUNREACH:
        case EHOSTDOWN:
        case ENETUNREACH:
        case ENETDOWN:
        case ENETRESET:
        case ENONET:
        case ENOPROTOOPT:
        case EOPNOTSUPP:
            return true;
        default:
            return false;
    }
}

}  // namespace

Credentials make_credentials(const std::string& authkey, Digest digest, bool legacy_md5) {
    MacHash hash = digest == Digest::sha256     ? MacHash::sha256
                   : digest == Digest::sha384   ? MacHash::sha384
                   : digest == Digest::sha3_256 ? MacHash::sha3_256
                                                : MacHash::sha3_384;
    return {authkey, hash, legacy_md5};
}

bool advance(int socket, Handshake& handshake) {
    try {
        flush(socket, handshake);
        while (!handshake.over()) {
            std::optional<std::size_t> size = sys::try_receive(socket, handshake.wanted());
            if (!size) return true;
            if (*size == 0)
                handshake.fail("closed the connection during the handshake");
            else
                handshake.received(*size);
            flush(socket, handshake);
        }
    } catch (const std::system_error& error) {
        if (!is_peers_doing(error.code().value())) throw;
        handshake.fail(std::string("broke off the handshake: ") + error.code().message());
    }
    return false;
}

bool is_own_user(int socket) {
    std::uint32_t uid = sys::peer_credentials(socket).uid;
    return uid == ::geteuid() || uid == 0;
}

void expect_own_user(int socket, const std::string& who, const char* remedy) {
    if (is_own_user(socket)) return;
    throw AuthenticationError(fmt::format("{} belongs to user {}, and this process to user {}; {}",
                                          who, sys::peer_credentials(socket).uid, ::geteuid(),
                                          remedy));
}

void set_tcp_options(int socket) noexcept {
    sys::set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
    sys::set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
}

}  // namespace sidestep
