#include "credentials.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <optional>
#include <system_error>

#include "sys_socket.hpp"

namespace sidestep {
namespace {

void flush(int socket, Handshake& handshake) {
    std::string output = handshake.take_output();
    if (output.empty()) return;
    // A peer that reads has room for so little: one that has not is not waited for.
    auto sent = sys::try_send(socket, std::as_bytes(std::span(output)));
    if (sent.value_or(0) != output.size()) handshake.fail("does not read what it is sent");
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
        handshake.fail(std::string("broke off the handshake: ") + error.code().message());
    }
    return false;
}

void set_tcp_options(int socket) noexcept {
    sys::set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
    sys::set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
}

}  // namespace sidestep
