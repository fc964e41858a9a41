// Listener and Client: connections between programs that do not know each other yet.
//
//     Listener listener({.address = TcpAddress{"127.0.0.1", 0}, .authkey = "secret"});
//     Connection server_side = listener.accept();
//     Connection client_side = Client(listener.address(), {.authkey = "secret"});
//
// With an authkey both sides prove that they know it (HMAC over random challenges) before anything
// else is read. The handshake and the framing are those of Python's multiprocessing.connection from
// 3.12 on, so that a Python program can be at the other end (with send_bytes and recv_bytes: its
// send() pickles). An empty key is a key like any other.
//
// Trust:      the key proves who is there; it does not encrypt what follows, nor notice who carries
//             it all from one side to the other: across a network, set `encrypted` on both sides.
//             Then all is TLS 1.3 with a key that is derived from the authkey: nobody on
//             the way reads, changes or injects anything. Who records a handshake can try weak
//             keys at home: take a random one, of 16 bytes or more.
//             Between two programs of this library each proof is bound to its side and to both
//             challenges. Python's handshake is not: where Python clients have the key, too,
//             whoever sits at an address that they take for the listener's can have them answer in
//             its place. Without a key: at an abstract name the Listener lets in its own user and
//             root, at a path whom the file's permissions let in, over TCP everybody. A Client
//             talks to its own user and root on Unix sockets, unless any_user is set, and over TCP
//             to whoever is there.
// Ownership:  a Listener owns its socket, and the file of a UnixAddress; what accept() returns
//             is the caller's.
// Threads:    a Listener is thread-safe: accept() calls take turns, close() from another thread
//             ends them. It has no thread of its own: handshakes go on inside accept().
// Fork:       a forked child has a listener of its own, on a copy of the same socket: both may
//             accept, each peer goes to one of them, and a handshake stays with the process that
//             began it. Who closes its copy does not close the other's. The socket's file is
//             removed by the process that created it only.
// Peer death: a peer that dies during its handshake has failed it (AuthenticationError).
// Errors:     std::system_error (EADDRINUSE: the address is taken; ECONNREFUSED: nobody listens;
//             ETIMEDOUT; EBADF: the listener is closed; ENOMEM, EMFILE and the like: this process
//             is short of something, try again), AuthenticationError for each peer that fails, and
//             std::invalid_argument for an address or option that cannot be.
// Limits:     A peer that has not proved the key yet costs a descriptor and 600 bytes (encrypted:
//             some 30 KiB, and half a millisecond of CPU), for handshake_timeout at most; its
//             messages are limited to 256 bytes; descriptors that it sends are dropped by the
//             kernel. max_handshakes of them run side by side, so that
//             slow ones do not keep the others waiting; beyond that the oldest is given up.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include <sidestep/address.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/timeout.hpp>

namespace sidestep::inline v0 {

// The other side did not prove that it knows the authkey, or did not accept our proof, or does not
// speak the protocol.
class AuthenticationError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// The hash of the challenges that this side makes. Answers may use any of these.
enum class Digest { sha256, sha384, sha3_256, sha3_384 };

struct ListenerOptions {
    Address address = UnixAddress{};                    // the default: a fresh abstract name
    std::optional<std::string> authkey = std::nullopt;  // none: no handshake; see Trust
    int backlog = 128;                                  // connections that may wait for accept()
    Digest digest = Digest::sha256;
    // Also takes the HMAC-MD5 of Python before 3.12 as a proof. MD5 is broken as a hash, though
    // not known to be as a MAC: only for peers that speak nothing else.
    bool legacy_md5 = false;
    // TLS 1.3 instead of Python's handshake, for Clients with the same option. It needs an authkey.
    // Descriptors do not travel then. Making the key takes about 60 ms, once for each authkey.
    bool encrypted = false;
    Timeout handshake_timeout = std::chrono::seconds(10);
    std::size_t max_handshakes = 64;
};

struct ClientOptions {
    std::optional<std::string> authkey = std::nullopt;  // none: no handshake
    Digest digest = Digest::sha256;
    bool legacy_md5 = false;  // see ListenerOptions
    bool encrypted = false;   // the same
    // Without an authkey on a UnixAddress: also talks to a listener of another user, who may have
    // been there first.
    bool any_user = false;
    // For connecting and the handshake together; none: as long as it takes.
    std::optional<Timeout> timeout = std::chrono::seconds(30);
};

class Listener;
namespace detail {
int listening_socket(const Listener& listener) noexcept;  // not for direct use
}

class Listener {
  public:
    explicit Listener(ListenerOptions options = {});
    ~Listener();
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

    // The next connection whose peer has proved the key. Blocks until there is one, or throws
    // AuthenticationError for a peer that has failed: the listener goes on listening, call again.
    Connection accept();
    // The same, waiting `timeout` at most: nothing if no peer has come so far.
    [[nodiscard]] std::optional<Connection> accept_for(Timeout timeout);

    // Where it really listens: with the port, or the name, that was picked.
    const Address& address() const;
    // The address of the peer accepted last; nothing before the first, and none has a name on a
    // Unix socket (an empty UnixAddress).
    std::optional<Address> last_accepted() const;

    // Readable when accept_for(0s) would get on: with a new peer, or with a handshake.
    // Throws if the listener is closed.
    int fd() const;

    // Stops listening, drops unfinished handshakes, removes the socket's file. Connections that
    // were accepted stay. Idempotent.
    void close() noexcept;
    bool closed() const;

  private:
    friend int detail::listening_socket(const Listener& listener) noexcept;
    class Impl;
    std::unique_ptr<Impl> impl_;
};

// Connects to a listener, ours or Python's.
Connection Client(const Address& address, const ClientOptions& options = {});

}  // namespace sidestep
