#include "spawn/pipe_io.hpp"

#include <poll.h>
#include <unistd.h>

#include <cerrno>

#include "sys/error.hpp"
#include "sys/sigpipe.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::subprocess {
namespace {

void wait_for(int fd, short events) {
    pollfd entry = {.fd = fd, .events = events, .revents = 0};
    while (::poll(&entry, 1, -1) < 0)
        if (errno != EINTR) throw_errno(errno, "poll(pipe)");
}

}  // namespace

std::size_t read_pipe(int fd, char* to, std::size_t size) {
    for (;;) {
        ssize_t n = ::read(fd, to, size);
        if (n >= 0) return static_cast<std::size_t>(n);
        if (errno == EAGAIN)
            wait_for(fd, POLLIN);
        else if (errno != EINTR)
            throw_errno(errno, "read from the child's pipe");
    }
}

void write_pipe(int fd, std::string_view bytes) {
    if (bytes.empty()) return;
    SigpipeGuard guard;
    while (!bytes.empty()) {
        ssize_t n = ::write(fd, bytes.data(), bytes.size());
        if (n >= 0) {
            bytes.remove_prefix(static_cast<std::size_t>(n));
            continue;
        }
        int error = errno;
        if (error == EPIPE) {
            guard.raised();
            throw_errno(error, "write to the child's std_in (it has closed it, or is gone)");
        }
        if (error == EAGAIN)
            wait_for(fd, POLLOUT);
        else if (error != EINTR)
            throw_errno(error, "write to the child's std_in");
    }
}

void write_pipe_now(int fd, std::string_view bytes) noexcept {
    SigpipeGuard guard;
    if (sys::write_now(fd, bytes.data(), bytes.size()) < 0 && errno == EPIPE) guard.raised();
}

}  // namespace sidestep::subprocess
