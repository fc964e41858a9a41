#include "sys/sys_socket.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>
#include <new>

#include "sys/error.hpp"
#include "sys/sigpipe.hpp"

namespace sidestep::inline v0::sys {
namespace {

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

// Repeats a transfer until it moves something or fails; `events` is what to wait for.
template <class Call>
std::size_t transfer(int fd, short events, const char* name, Call call) {
    for (;;) {
        ssize_t n = call();
        if (n >= 0) return static_cast<std::size_t>(n);
        int error = errno;
        if (would_block(error))
            wait_ready(fd, events, {});
        else if (error != EINTR)
            throw_errno(error, fmt::format("{}(fd {})", name, fd));
    }
}

template <class Call>
std::optional<std::size_t> try_transfer(int fd, const char* name, Call call) {
    for (;;) {
        ssize_t n = call();
        if (n >= 0) return static_cast<std::size_t>(n);
        int error = errno;
        if (would_block(error)) return {};
        if (error != EINTR) throw_errno(error, fmt::format("{}(fd {})", name, fd));
    }
}

struct Parts {
    Parts(std::span<const std::byte> head, std::span<const std::byte> body) {
        if (!head.empty()) add(head);
        if (!body.empty()) add(body);
    }
    void add(std::span<const std::byte> part) {
        vectors[count++] = {const_cast<std::byte*>(part.data()), part.size()};
    }
    iovec vectors[2];
    int count = 0;
};

struct alignas(cmsghdr) FdControl {
    std::byte bytes[CMSG_SPACE(kMaxFdsPerSend * sizeof(int))];
};

// Without memory for a list of them they are closed, and count as lost: the bytes have come, and
// the place in the stream with them.
void take_fds(msghdr& header, Received& received) {
    Fd came[kMaxFdsPerSend];  // all are owned before anything can fail
    std::size_t count = own_fds(header, came);
    try {
        received.fds.assign(std::make_move_iterator(came), std::make_move_iterator(came + count));
    } catch (const std::bad_alloc&) {
        received.fds_lost = true;
    }
}

// connect(2) on a Unix socket waits for room in the backlog, and only SO_SNDTIMEO bounds that.
int connect_unix(int socket, const SocketAddress& address, const Deadline& deadline) noexcept {
    for (;;) {
        timeval limit = {};
        if (deadline) {
            auto now = Clock::now();
            std::chrono::microseconds left(1);  // zero would be no limit
            if (*deadline > now)
                left = std::chrono::ceil<std::chrono::microseconds>(*deadline - now);
            limit.tv_sec = static_cast<time_t>(left.count() / 1'000'000);
            limit.tv_usec = static_cast<suseconds_t>(left.count() % 1'000'000);
        }
        (void)::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        int result = ::connect(socket, address.get(), address.size);
        int error = result < 0 ? errno : 0;
        timeval none = {};
        (void)::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
        if (error != EINTR) return would_block(error) ? ETIMEDOUT : error;
    }
}

}  // namespace

SocketPair make_stream_pair() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        throw_errno(errno, "socketpair");
    SocketPair pair = {Fd(fds[0]), Fd(fds[1])};
    // A library must not sit on a standard stream that the application has closed.
    if (fds[0] < 3) pair.first = pair.first.duplicate();
    if (fds[1] < 3) pair.second = pair.second.duplicate();
    return pair;
}

Fd make_socket(int family) {
    Fd fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) throw_errno(errno, "socket");
    if (fd.get() < 3) fd = fd.duplicate();
    return fd;
}

int bind(int socket, const SocketAddress& address) noexcept {
    return ::bind(socket, address.get(), address.size) < 0 ? errno : 0;
}

void listen(int socket, int backlog) {
    if (::listen(socket, backlog) < 0) throw_errno(errno, fmt::format("listen(fd {})", socket));
}

int connect(int socket, const SocketAddress& address, const Deadline& deadline) noexcept {
    if (address.storage.ss_family == AF_UNIX) return connect_unix(socket, address, deadline);
    int flags = ::fcntl(socket, F_GETFL);
    if (flags < 0 || ::fcntl(socket, F_SETFL, flags | O_NONBLOCK) < 0) return errno;
    int error = ::connect(socket, address.get(), address.size) < 0 ? errno : 0;
    // EINTR: it goes on by itself, as after EINPROGRESS (connect(2)).
    if (error == EINPROGRESS || error == EINTR) {
        pollfd entry = {.fd = socket, .events = POLLOUT, .revents = 0};
        int n = 0;
        do n = ::poll(&entry, 1, poll_timeout(deadline));
        while ((n < 0 && errno == EINTR) || (n == 0 && (!deadline || Clock::now() < *deadline)));
        error = n == 0 ? ETIMEDOUT : n < 0 ? errno : 0;
        socklen_t size = sizeof error;
        if (n > 0 && ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) < 0) error = errno;
    }
    if (error == 0 && ::fcntl(socket, F_SETFL, flags) < 0) error = errno;
    return error;
}

Fd try_accept(int socket, SocketAddress& peer) {
    peer.size = sizeof peer.storage;
    Fd fd(::accept4(socket, peer.get(), &peer.size, SOCK_CLOEXEC));
    if (fd && fd.get() < 3) fd = fd.duplicate();
    if (fd) return fd;
    switch (errno) {
        // The connection was gone before we came, or an error of the network was on it: accept(2).
        case EINTR:
        case EAGAIN:
        case ECONNABORTED:
        case EPROTO:
        case ENETDOWN:
        case ENOPROTOOPT:
        case EHOSTDOWN:
        case ENONET:
        case EHOSTUNREACH:
        case EOPNOTSUPP:
        case ENETUNREACH:
            return {};
        default:
            throw_errno(errno, fmt::format("accept(fd {})", socket));
    }
}

SocketAddress own_address(int socket) {
    SocketAddress address;
    address.size = sizeof address.storage;
    if (::getsockname(socket, address.get(), &address.size) < 0)
        throw_errno(errno, fmt::format("getsockname(fd {})", socket));
    return address;
}

void set_option(int socket, int level, int option, int value) noexcept {
    // A refused option costs speed or convenience, not correctness.
    (void)::setsockopt(socket, level, option, &value, sizeof value);
}

PeerCredentials peer_credentials(int socket) {
    ucred peer = {};
    socklen_t size = sizeof peer;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
        throw_errno(errno, fmt::format("getsockopt(SO_PEERCRED, fd {})", socket));
    return {peer.pid, peer.uid};
}

std::size_t send_some(int socket, std::span<const std::byte> head, std::span<const std::byte> body,
                      std::span<const int> fds) {
    if (fds.empty() && body.empty())
        return transfer(socket, POLLOUT, "send",
                        [&] { return ::send(socket, head.data(), head.size(), MSG_NOSIGNAL); });
    Parts parts(head, body);
    msghdr header = {};
    header.msg_iov = parts.vectors;
    header.msg_iovlen = static_cast<std::size_t>(parts.count);
    FdControl control;
    if (!fds.empty()) {
        SIDESTEP_ASSERT(fds.size() <= kMaxFdsPerSend);
        std::memset(&control, 0, CMSG_SPACE(fds.size_bytes()));
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(fds.size_bytes());
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fds.size_bytes());
        std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
    }
    return transfer(socket, POLLOUT, "sendmsg",
                    [&] { return ::sendmsg(socket, &header, MSG_NOSIGNAL); });
}

std::size_t receive_some(int socket, std::span<std::byte> buffer, bool fill) {
    int flags = fill ? MSG_WAITALL : 0;
    return transfer(socket, POLLIN, "recv",
                    [&] { return ::recv(socket, buffer.data(), buffer.size(), flags); });
}

Received receive_with_fds(int socket, std::span<std::byte> buffer) {
    FdControl control;
    iovec part = {buffer.data(), buffer.size()};
    msghdr header = {};
    Received received;
    received.size = transfer(socket, POLLIN, "recvmsg", [&] {
        header = {};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = &control;
        header.msg_controllen = sizeof control;
        return ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    });
    received.fds_lost = (header.msg_flags & MSG_CTRUNC) != 0;
    if (header.msg_controllen != 0) take_fds(header, received);
    return received;
}

std::size_t write_some(int fd, std::span<const std::byte> head, std::span<const std::byte> body) {
    Parts parts(head, body);
    SigpipeGuard guard;
    return transfer(fd, POLLOUT, "write", [&] {
        ssize_t n = ::writev(fd, parts.vectors, parts.count);
        if (n < 0 && errno == EPIPE) guard.raised();
        return n;
    });
}

std::size_t read_some(int fd, std::span<std::byte> buffer) {
    return transfer(fd, POLLIN, "read", [&] { return ::read(fd, buffer.data(), buffer.size()); });
}

std::optional<std::size_t> try_send(int socket, std::span<const std::byte> bytes) {
    return try_transfer(socket, "send", [&] {
        return ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    });
}

std::optional<std::size_t> try_receive(int socket, std::span<std::byte> buffer) {
    return try_transfer(socket, "recv",
                        [&] { return ::recv(socket, buffer.data(), buffer.size(), MSG_DONTWAIT); });
}

bool wait_ready(int fd, short events, const Deadline& deadline) {
    for (;;) {
        pollfd entry = {.fd = fd, .events = events, .revents = 0};
        int n = ::poll(&entry, 1, poll_timeout(deadline));
        if (n < 0 && errno != EINTR) throw_errno(errno, fmt::format("poll(fd {})", fd));
        if (n > 0 && (entry.revents & POLLNVAL) != 0)
            throw_errno(EBADF, fmt::format("poll(fd {})", fd));
        if (n > 0) return true;
        if (deadline && Clock::now() >= *deadline) return false;
    }
}

}  // namespace sidestep::sys
