#include <sidestep/dup_fd.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

#include <sidestep/archive.hpp>

#include "sys/error.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {

DupFd DupFd::duplicate_of(int fd) {
    int copy = sys::duplicate_fd(fd);
    if (copy < 0) throw_errno(errno, fmt::format("fcntl(F_DUPFD_CLOEXEC, fd {})", fd));
    return DupFd(copy);
}

void DupFd::reset(int fd) noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
}

void DupFd::save(OutputArchive& archive) const {
    if (fd_ < 0) throw SerializationError("cannot send a DupFd that holds no descriptor");
    if (archive.fds() == nullptr)
        throw SerializationError(
            "a descriptor cannot travel here: only arguments of processes and messages over Unix "
            "sockets (Pipe(), or a Listener on a UnixAddress) carry any");
    archive(archive.fds()->put(fd_));
}

void DupFd::load(InputArchive& archive) {
    std::uint64_t number = 0;
    archive(number);
    if (archive.fds() == nullptr)
        throw SerializationError("cannot deserialize: no descriptor came with the message");
    reset(archive.fds()->get(number));
}

}  // namespace sidestep
