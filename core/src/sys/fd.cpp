#include "sys/fd.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "sys/error.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {

void Fd::reset(int fd) noexcept {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
}

Fd Fd::duplicate_of(int fd) {
    int copy = sys::duplicate_fd(fd);
    if (copy < 0) throw_errno(errno, "fcntl(F_DUPFD_CLOEXEC)");
    return Fd(copy);
}

void Mapping::reset() noexcept {
    if (address_) ::munmap(address_, size_);
    address_ = nullptr;
    size_ = 0;
}

}  // namespace sidestep
