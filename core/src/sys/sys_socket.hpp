// Raw calls on stream sockets, pipes and socket addresses; the rules of sys.hpp hold here too.
//
// No call raises SIGPIPE. A descriptor that its owner made non-blocking is waited for with poll(2),
// except by the try_ functions, which never block whatever the descriptor's mode.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "sys/fd.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::sys {

// What the kernel carries beside one sendmsg(2) at most (SCM_MAX_FD).
inline constexpr std::size_t kMaxFdsPerSend = 253;

struct SocketAddress {
    sockaddr_storage storage = {};
    socklen_t size = 0;

    sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
    const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

// --- making sockets --------------------------------------------------------------------------

// A connected pair of SOCK_STREAM sockets, numbered 3 or more.
SocketPair make_stream_pair();
Fd make_socket(int family);
// An error is for the caller to name: it knows the address.
int bind(int socket, const SocketAddress& address) noexcept;  // 0 or errno
void listen(int socket, int backlog);
// Connects, waiting until `deadline`. 0 or errno; ETIMEDOUT after the deadline.
int connect(int socket, const SocketAddress& address, const Deadline& deadline) noexcept;
// The next connection of a non-blocking socket: no descriptor if there is none (or it is gone
// already).
Fd try_accept(int socket, SocketAddress& peer);
SocketAddress own_address(int socket);
void set_option(int socket, int level, int option, int value) noexcept;
// Who connected over a Unix socket (SO_PEERCRED).
struct PeerCredentials {
    int pid = 0;
    std::uint32_t uid = 0;
};
PeerCredentials peer_credentials(int socket);

// --- moving bytes ----------------------------------------------------------------------------

// Sends at least one byte of `head` followed by `body`; the descriptors go with the first byte.
std::size_t send_some(int socket, std::span<const std::byte> head, std::span<const std::byte> body,
                      std::span<const int> fds = {});
// Receives at least one byte; 0 is the end of the stream. With `fill` it is short only at the end,
// after a signal or on a non-blocking socket.
std::size_t receive_some(int socket, std::span<std::byte> buffer, bool fill);
struct Received {
    std::size_t size = 0;      // 0: the end of the stream
    bool fds_lost = false;     // no room in this process's table of descriptors, or no memory
    std::vector<Fd> fds = {};  // O_CLOEXEC
};
Received receive_with_fds(int socket, std::span<std::byte> buffer);
// The same for pipes and other files.
std::size_t write_some(int fd, std::span<const std::byte> head, std::span<const std::byte> body);
std::size_t read_some(int fd, std::span<std::byte> buffer);

// Without waiting: nothing if the call would block.
std::optional<std::size_t> try_send(int socket, std::span<const std::byte> bytes);
std::optional<std::size_t> try_receive(int socket, std::span<std::byte> buffer);

// Polls one descriptor for POLLIN or POLLOUT. True: ready, hung up or failed. Throws for a number
// that is no open descriptor.
bool wait_ready(int fd, short events, const Deadline& deadline);

}  // namespace sidestep::sys
