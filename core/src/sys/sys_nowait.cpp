#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "sys/sys.hpp"

namespace sidestep::inline v0::sys {
namespace {

constexpr off_t kHere = -1;  // where the file is: a pipe has no other place

bool is_unsupported(ssize_t result) {
    if (result >= 0) return false;
    switch (errno) {
        case EOPNOTSUPP:
        case ENOSYS:
        case EPERM:
        case EINVAL:
            return true;
        default:
            return false;
    }
}

// Does `transfer` while the pipe is non-blocking.
template <class Transfer>
ssize_t unblocked(int fd, Transfer transfer) noexcept {
    int flags = ::fcntl(fd, F_GETFL);
    bool change = flags >= 0 && (flags & O_NONBLOCK) == 0;
    if (flags < 0 || (change && ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)) return -1;
    ssize_t result = transfer();
    int error = errno;
    if (change) (void)::fcntl(fd, F_SETFL, flags);  // it worked in the other direction
    errno = error;
    return result;
}

}  // namespace

ssize_t write_now(int fd, const void* data, std::size_t size) noexcept {
    iovec part = {const_cast<void*>(data), size};
    ssize_t result = ::pwritev2(fd, &part, 1, kHere, RWF_NOWAIT);
    if (!is_unsupported(result)) return result;
    return unblocked(fd, [&] { return ::write(fd, data, size); });
}

ssize_t read_now(int fd, void* data, std::size_t size) noexcept {
    iovec part = {data, size};
    ssize_t result = ::preadv2(fd, &part, 1, kHere, RWF_NOWAIT);
    if (!is_unsupported(result)) return result;
    return unblocked(fd, [&] { return ::read(fd, data, size); });
}

}  // namespace sidestep::sys
